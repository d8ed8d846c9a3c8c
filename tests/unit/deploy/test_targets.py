"""What an export may replace: nothing that another program, or a person, wrote."""

import os
import shutil

import pytest

from onestage.deploy.example import EXAMPLES, example_place
from onestage.deploy.export import FORMATS, ExportConfig, _targets
from onestage.deploy.targets import is_exported
from onestage.deploy.vectors import vectors_place
from onestage.errors import ConfigError, KeywordError


def test_an_example_that_its_user_changed_is_not_replaced(folder, tmp_path):
    shutil.copy(folder / "model_example.py", tmp_path / "m_example.py")
    assert is_exported(tmp_path / "m_example.py")
    for change in (("0.5", "0.4"), ("(onestage ", "(onestage 0"), ("onestage", "ours")):
        text = (folder / "model_example.py").read_text().replace(*change, 1)
        (tmp_path / "m_example.py").write_text(text)
        with pytest.raises(ConfigError, match=r"did not export it.*\n.*m_example"):
            _targets(tmp_path / "m.onnx", FORMATS["onnx"], check=False, example=True, overwrite=True)
        assert (tmp_path / "m_example.py").read_text() == text


@pytest.mark.parametrize("to", FORMATS)
def test_a_pipe_in_the_place_of_a_file_is_not_read(tmp_path, to):
    """To open it would wait for a writer, for ever."""
    path = tmp_path / f"m{FORMATS[to].suffix}"
    form, flags = FORMATS[to], {"check": True, "example": True, "overwrite": True}
    folder = vectors_place(path)
    for pipe in (path, *(path.with_suffix(end) for end in form.parts), example_place(path, form.suffix), folder / "README.txt"):
        if pipe.name.endswith("_example.py") and form.suffix not in EXAMPLES:
            continue
        pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(pipe)
        with pytest.raises(ConfigError, match=r"did not export it"):
            _targets(path, form, **flags)
        pipe.unlink()
        assert not is_exported(path) and not is_exported(folder)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("end", ["file", "nothing"])
def test_no_advice_for_a_link_that_would_be_refused_too(tmp_path, overwrite, end):
    (tmp_path / "file").touch()
    (tmp_path / "m.onnx").symlink_to(tmp_path / end)
    with pytest.raises(ConfigError, match="a link is not replaced") as error:
        _targets(tmp_path / "m.onnx", FORMATS["onnx"], check=True, example=False, overwrite=overwrite)
    assert "overwrite" not in str(error.value) and "move the link away" in str(error.value)


def test_an_existing_file_is_named_as_it_was_asked_for(model, folder, tmp_path):
    """And what the error says to do can be done with the method that was called."""
    for path in (folder / "model.onnx", str(folder / "model.onnx")):
        with pytest.raises(ConfigError, match="exists already") as error:
            model.export(path)
        assert error.value.where == folder / "model.onnx" and "config=ExportConfig(overwrite=True)" in error.value.fix
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(ConfigError, match="onestage did not export it"):
        model.export(tmp_path / "m.onnx", config=ExportConfig(overwrite=True))
    with pytest.raises(ConfigError, match="config is an ExportConfig"):
        model.export(tmp_path / "n.onnx", config=model.config)
    with pytest.raises(ConfigError, match=r"files of the format torch cannot be in fp16"):
        model.export(tmp_path / "n.pt2", to="torch", config=ExportConfig(precision="fp16"))


def test_a_setting_as_a_keyword_is_told_its_place(model, tmp_path):
    with pytest.raises(KeywordError) as error:
        model.export(tmp_path / "m.onnx", precision="fp16")
    assert error.value.fix == "if it is a setting of the file: config=onestage.ExportConfig(precision=...)"
    with pytest.raises(KeywordError, match="did you mean 'config'") as error:
        model.export(tmp_path / "m.onnx", confg=None)
    assert error.value.fix is None
