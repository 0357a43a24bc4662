// The figure of the page "The nested layer": two sliders, a staircase and a histogram, from numbers in the page.
(() => {
  const { thresholds, states } = JSON.parse(document.getElementById("nested-data").textContent);
  const picture = document.getElementById("nested-picture");
  const reading = document.getElementById("nested-reading");
  const sliders = ["threshold", "epoch"].map((name) => document.getElementById(`nested-${name}`));
  const WIDTH = 640, LEFT = 48, RIGHT = 12;
  const STAIRS = { top: 12, bottom: 190 }, BARS = { top: 230, bottom: 390 };

  // The range of P is the same for all states, so that steps can be compared.
  const ends = states.flat().flatMap((state) => [state.min * state.scale, (state.max + 1) * state.scale]);
  const sorted = ends.map(Math.abs).sort((a, b) => a - b);
  const limit = sorted[Math.floor(0.9 * (sorted.length - 1))];
  const x = (value) => LEFT + ((value + limit) / (2 * limit)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => STAIRS.bottom - ((value + limit) / (2 * limit)) * (STAIRS.bottom - STAIRS.top);

  const element = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const stairs = (scale) => {
    if (scale * (WIDTH / (2 * limit)) < 1) return `M${x(-limit)} ${y(-limit)}L${x(limit)} ${y(limit)}`;
    let path = "";
    for (let k = Math.floor(-limit / scale); k * scale < limit; k++) {
      const [from, to] = [Math.max(k * scale, -limit), Math.min((k + 1) * scale, limit)];
      const level = Math.max(k * scale, -limit);
      path += `${path ? "L" : "M"}${x(from)} ${y(level)}L${x(to)} ${y(level)}`;
    }
    return path;
  };

  const draw = () => {
    const [threshold, epoch] = sliders.map((slider) => Number(slider.value));
    const state = states[threshold][epoch];
    const { scale, start, width, counts } = state;
    const [lambda, most] = [thresholds[threshold], Math.max(...counts)];
    const parts = [element("title", {}, "The layer as a staircase, and the elements of the kernel on each step")];
    for (const { top, bottom } of [STAIRS, BARS]) {
      parts.push(element("path", { d: `M${LEFT} ${top}V${bottom}H${WIDTH - RIGHT}`, class: "axis" }));
      parts.push(element("path", { d: `M${x(0)} ${top}V${bottom}`, class: "zero" }));
    }
    parts.push(element("path", { d: stairs(scale), class: "stairs" }));
    counts.forEach((count, i) => {
      const [from, to] = [(start + i * width) * scale, (start + (i + 1) * width) * scale];
      if (!count || from >= limit || to <= -limit) return;
      const [left, right] = [x(Math.max(from, -limit)), x(Math.min(to, limit))];
      const height = (count / most) * (BARS.bottom - BARS.top);
      const gap = right - left > 4 ? 1 : 0;
      parts.push(element("rect", { x: left, y: BARS.bottom - height, width: right - left - gap, height, class: "bar" }));
    });
    const tick = Number((limit / 2).toPrecision(1));
    for (const value of [-tick, 0, tick]) {
      parts.push(element("text", { x: x(value), y: BARS.bottom + 18, "text-anchor": "middle" }, value));
    }
    parts.push(element("text", { x: x(0), y: BARS.bottom + 38, "text-anchor": "middle" }, "P"));
    parts.push(element("text", { x: LEFT + 6, y: STAIRS.top + 10 }, "P_r, what the network computes with"));
    parts.push(element("text", { x: LEFT + 6, y: BARS.top + 4 }, `elements on a step, at most ${most}`));
    picture.replaceChildren(...parts);

    reading.textContent =
      `λ = ${lambda}, after epoch ${epoch}: scale ${scale}, ${state.unique} unique integers ` +
      `from ${state.min} to ${state.max}, test accuracy ${state.accuracy} %.`;
    sliders[0].setAttribute("aria-valuetext", `λ = ${lambda}`);
    sliders[1].setAttribute("aria-valuetext", `epoch ${epoch}`);
  };

  for (const slider of sliders) slider.addEventListener("input", draw);
  draw();
})();
