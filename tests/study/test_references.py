import pytest

from study.references import references


def test_a_work_is_a_line_with_its_key_its_title_and_a_link():
    line = references("esser2020").data
    assert line.startswith("- **[esser2020]** Steven K")
    assert "Learned step size quantization" in line
    assert line.endswith(r"[arXiv:1902\.08153](https://arxiv.org/abs/1902.08153)\.")


def test_works_are_sorted_by_key():
    lines = references("jung2019", "bengio2013").data.splitlines()
    assert [line.split("**")[1] for line in lines] == ["[bengio2013]", "[jung2019]"]


def test_unknown_key_is_named():
    with pytest.raises(ValueError, match="Every key must be in references.bib. Received: nobody1900"):
        references("bengio2013", "nobody1900")
