"""A certificate stands in its table's file, sealed, and a host can ask for nothing else."""

import json

import pytest
from certified_tables import CONFIGS, HELD, certificate, certified_table, claim

from paceline.control import LookupTable
from paceline.control.certificate import parse_certificate
from paceline.control.loading import load_controller
from paceline.errors import ControllerError, InvalidValueError, PacelineWarning, TableError, UnknownChoiceError
from paceline.fit import save_table


def test_a_certificate_is_read_as_it_was_written(tmp_path):
    save_table(certified_table(HELD), tmp_path / "table.json")
    read = LookupTable.load(tmp_path / "table.json")
    assert read.certificate == HELD
    assert read.metadata.chosen_on == 50
    assert parse_certificate(HELD.document()) == HELD
    assert read.document() == certified_table(HELD).document()


def test_without_a_certificate_the_file_is_as_before():
    plain = certified_table(None).document()["metadata"]
    assert "certificate" not in plain and plain["chosen_on"] == 50


@pytest.mark.parametrize(
    "edit",
    [
        lambda held: held["claims"][1].update(verdict="certified"),
        lambda held: held.update(epsilon=0.01),
        lambda held: held.update(claims=[]),
        lambda held: held.pop("description_sha256"),
        lambda held: held.update(format="another"),
    ],
)
def test_a_certificate_that_was_edited_is_refused(tmp_path, edit):
    path = tmp_path / "table.json"
    save_table(certified_table(HELD), path)
    document = json.loads(path.read_text())
    edit(document["metadata"]["certificate"])
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match="changed after it was written"):
        LookupTable.load(path)


def test_certified_only_takes_what_was_certified_and_the_full_configuration(tmp_path):
    path = tmp_path / "table.json"
    save_table(certified_table(HELD), path)
    only = load_controller(path, certified_only=True)
    assert [entry.config for entry in only.entries] == [CONFIGS[1], CONFIGS[2]]
    assert only.predict(25).config == CONFIGS[1]
    with pytest.warns(PacelineWarning):
        decision = only.predict(12)
    assert decision.config == CONFIGS[1] and not decision.within_budget
    assert load_controller(path).predict(12).config == CONFIGS[0]


def test_certified_only_of_what_holds_no_certificate_is_refused(tmp_path):
    path = tmp_path / "table.json"
    save_table(certified_table(None), path)
    with pytest.raises(TableError, match="holds no certificate"):
        load_controller(path, certified_only=True)
    with pytest.raises(ControllerError, match="hold no certificate"):
        load_controller(tmp_path, certified_only=True)


def test_what_is_certain_and_what_is_not_is_said():
    some = certificate(claim(CONFIGS[1], "certified"), claim(CONFIGS[0], "open"), stopped="the 5 minutes were over")
    assert some.sentence == (
        "within 3 points of low_8_16 with probability 0.9: low_4_16 (95 of 100 requests within 30.0 ms); "
        "not decided: low_1_16"
    )
    assert "nothing is certified" in certificate(claim(CONFIGS[1], "failed")).sentence
    assert "not shown: low_4_16" in certificate(claim(CONFIGS[1], "failed")).sentence
    assert some.certified == (CONFIGS[2], CONFIGS[1])


def test_a_certificate_that_cannot_be_is_refused():
    with pytest.raises(InvalidValueError, match="nothing certified after the first that was not"):
        certificate(claim(CONFIGS[1], "failed"), claim(CONFIGS[0], "certified"))
    with pytest.raises(InvalidValueError, match="counts of a certificate"):
        claim(CONFIGS[0], "open", broken=101)
    with pytest.raises(UnknownChoiceError):
        claim(CONFIGS[0], "perhaps")
    with pytest.raises(InvalidValueError, match="epsilon"):
        certificate(epsilon=0.0)


def test_cautions_say_that_accuracies_are_smoothed_and_when_nothing_is_certified():
    assert any("smoothed over the grid from 50" in caution for caution in certified_table(HELD).cautions)
    assert any("nothing of this table is certified" in caution for caution in certified_table(None).cautions)
    assert not any("nothing of this table" in caution for caution in certified_table(HELD).cautions)
