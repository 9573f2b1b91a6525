"""`paceline profile --certify` from end to end: chosen, sealed, certified, gone on with after any stop, refused with a remedy."""

import json

import pytest

from paceline.control import LookupTable
from paceline.errors import CertificateError, InvalidValueError
from paceline.fit.certified import CertifyPlan, run_certified
from paceline.fit.certified.plan import FILE_NAME as PLAN
from paceline.measure.profiling import ProfilePlan
from paceline.profiles.parts import FILE_NAME as PARTS
from paceline.profiles.parts import QuestionParts

PROFILE = ProfilePlan(
    datasets=("digits_exist",),
    samples=1,
    tiers=("low",),
    top_ks=(8,),
    block_counts=(8, 16),
    warmup_runs=0,
    max_new_tokens=6,
)
ASKED = CertifyPlan(profile=PROFILE, epsilon=0.4, delta=0.3, questions=64, batch_size=11)


class Killed(BaseException):
    """What stops a run between two answers, as a signal would."""


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("certified") / "profile"
    told = []
    return run_certified(digits, ASKED, out, on_decided=told.append), told


def lines(out):
    return {path.name: path.read_text().splitlines() for path in out.glob("*-rank0.jsonl")}


def verdicts(certificate):
    return [(each.config, each.asked, each.broken, each.mended, each.requests) for each in certificate.claims]


def test_a_run_leaves_a_table_with_its_certificate_and_says_what_it_decided(finished):
    run, told = finished
    table = LookupTable.load(run.table)
    assert table.certificate == run.certificate
    assert len(table.entries) == 2 and table.metadata.chosen_on == run.choosing_questions
    assert run.cells + run.timed_cells == sum(
        len(found) for name, found in lines(run.out).items() if not name.startswith("sentinels")
    )
    assert any(text.startswith("to be tested: low_8_8") for text in told)
    assert run.certificate.claims[0].verdict in ("certified", "failed")
    assert any(text.startswith(run.certificate.claims[0].verdict) for text in told)


def test_the_parts_and_the_plan_are_sealed_in_the_store_and_share_no_question(finished):
    run, _told = finished
    parts = QuestionParts.read(run.out)
    assert not set(parts.choosing) & set(parts.certifying)
    plan = json.loads((run.out / PLAN).read_text())
    assert plan["parts_sha256"] == parts.sha256 and plan["epsilon"] == 0.4
    assert run.certificate.plan_sha256 == plan["description_sha256"]
    certified = {
        (line["dataset"], line["sample_id"]) for line in map(json.loads, lines(run.out)["answers-rank0.jsonl"])
    }
    assert certified and not certified & set(parts.choosing)


def test_a_run_stopped_anywhere_goes_on_and_decides_the_same(digits, finished, tmp_path):
    whole, _ = finished
    out, moves = tmp_path / "profile", []

    def stop(_done, _total):
        moves.append(1)
        if len(moves) == 42:  # in the certifying part; tests/e2e kills at every other
            raise Killed

    with pytest.raises(Killed):
        run_certified(digits, ASKED, out, on_progress=stop)
    before = lines(out)
    answers = out / "answers-rank0.jsonl"
    if answers.exists() and answers.stat().st_size:
        answers.write_bytes(answers.read_bytes()[:-9])  # and the answer in flight is torn
        before["answers-rank0.jsonl"] = before["answers-rank0.jsonl"][:-1]
    again = run_certified(digits, ASKED, out)
    after = lines(out)
    for name, found in before.items():
        assert after[name][: len(found)] == found, "what was measured stays as it was"
    assert verdicts(again.certificate)[0][:4] == verdicts(whole.certificate)[0][:4]
    keys = [tuple(json.loads(line)[name] for name in ("sample_id", "config")) for line in after["answers-rank0.jsonl"]]
    assert len(keys) == len(set(keys)), "nothing is answered twice"
    assert run_certified(digits, ASKED, out).certificate == again.certificate


def test_minutes_that_end_leave_a_usable_table_that_says_so(digits, tmp_path):
    ticks = iter(range(10**6))
    plan = CertifyPlan(profile=PROFILE, epsilon=0.4, delta=0.3, questions=64, minutes=1.5, batch_size=11)
    run = run_certified(digits, plan, tmp_path / "profile", clock=lambda: float(next(ticks)))
    assert run.stopped and "1.5 minutes were over" in run.stopped
    table = LookupTable.load(run.table)
    assert table.predict(1e6).config is not None
    assert table.certificate is None or "not decided" in table.certificate.sentence


def test_too_few_minutes_for_the_first_pass_are_refused_with_the_number(digits, tmp_path):
    ticks = iter(range(10**6))
    plan = CertifyPlan(profile=PROFILE, epsilon=0.4, delta=0.3, questions=64, minutes=0.3)
    with pytest.raises(InvalidValueError, match="give more --minutes, or a smaller grid"):
        run_certified(digits, plan, tmp_path / "profile", clock=lambda: float(next(ticks)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epsilon": 0.01}, "230 at least"),
        ({"delta": 0.01}, "90 at least"),
        (
            {
                "profile": ProfilePlan(
                    datasets=("digits_exist",), samples=1, tiers=("low",), top_ks=(8,), block_counts=(16,)
                )
            },
            "with one there is nothing to choose",
        ),
    ],
)
def test_what_questions_or_grid_cannot_support_is_refused_before_anything_is_asked(digits, tmp_path, changed, words):
    plan = CertifyPlan(**{"profile": PROFILE, "epsilon": 0.4, "delta": 0.1, "questions": 64, **changed})
    with pytest.raises(InvalidValueError, match=words):
        run_certified(digits, plan, tmp_path / "profile")
    assert not (tmp_path / "profile").exists()


def test_another_margin_or_other_questions_in_the_same_store_are_refused(digits, finished):
    run, _ = finished
    other = CertifyPlan(profile=PROFILE, epsilon=0.3, delta=0.3, questions=64, batch_size=11)
    with pytest.raises(CertificateError, match="epsilon is 0.4, not 0.3"):
        run_certified(digits, other, run.out)
    more = CertifyPlan(profile=PROFILE, epsilon=0.4, delta=0.3, questions=70, batch_size=11)
    with pytest.raises(CertificateError, match="parted 64 questions"):
        run_certified(digits, more, run.out)


def test_a_store_that_was_measured_before_it_was_parted_certifies_nothing(digits, finished, tmp_path):
    run, _ = finished
    out = tmp_path / "profile"
    out.mkdir()
    for path in run.out.iterdir():
        if path.is_file() and path.name not in (PARTS, PLAN) and not path.name.startswith("."):
            (out / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CertificateError, match="before questions were parted"):
        run_certified(digits, ASKED, out)


def test_a_certified_profile_is_not_merged_and_its_export_says_what_it_cannot_hold(paceline, finished, tmp_path):
    run, _ = finished
    for part in (run.out, run.out / "samples.parquet"):
        code, _, err = paceline("merge", part, "--out", tmp_path / "merged", "--allow-mixed")
        assert code == 2 and not (tmp_path / "merged").exists()
        assert "20 of its questions chose configurations" in err and "merge the others without it" in err
    code, _, err = paceline("export", run.out, "--out", tmp_path / "exported")
    assert code == 0 and "calibrate no bounds" in err


def test_commands_that_read_all_samples_say_that_they_are_not_of_the_same_questions(paceline, finished, tmp_path):
    run, _ = finished
    built = ("table", "build", "--results-dir", run.out, "--output-file", tmp_path / "table.json")
    for command in (("budgets", run.out), built):
        code, _, err = paceline(*command)
        assert code == 0 and "not of the same questions; its own table.json is" in " ".join(err.split())


def test_what_the_answers_took_is_told_beside_their_number(finished):
    run, _ = finished
    rows = [json.loads(line) for line in lines(run.out)["answers-rank0.jsonl"]]
    assert run.cells_seconds == pytest.approx(sum(row["seconds"] for row in rows)) and run.cells_seconds > 0
    samples = [json.loads(line) for line in lines(run.out)["journal-rank0.jsonl"]]
    took = [(row["T_preprocess"] + row["T_total"]) / 1e3 for row in samples]
    assert run.timed_cells_seconds == pytest.approx(sum(took))
    everywhere = [seconds for seconds, row in zip(took, samples, strict=True) if row["sample_id"] in chose(run)]
    assert run.full_seconds == pytest.approx(64 * 2 * sum(everywhere) / len(everywhere))
    assert run.seconds > run.cells_seconds + run.timed_cells_seconds and run.agreement is None


def chose(run):
    return {sample_id for _, sample_id in QuestionParts.read(run.out).choosing}


def test_the_command_line_certifies_shows_and_serves(paceline, tmp_path, picture_path):
    out = tmp_path / "profile"
    flags = ("--datasets", "digits_exist", "--tiers", "low", "--top-k", "8", "--blocks", "8,16", "--warmup", "0")
    code, printed, err = paceline(
        "profile", "digits", "--out", out, *flags, "--max-new-tokens", "6", "--certify", "0.4,0.3", "--questions", "64"
    )
    assert code == 0, err
    assert "Certificate (epsilon 0.4, delta 0.3" in printed and "to be tested: low_8_8" in err
    code, shown, err = paceline("table", "show", out / "table.json")
    assert code == 0 and "about a mix of" in shown, err
    code, as_json, _ = paceline("table", "show", out / "table.json", "--json")
    assert json.loads(as_json)["certificate"]["epsilon"] == 0.4
    answered = ("run", "digits", "--image", picture_path, "--prompt", "Read the digits.", "--budget", "1000000")
    code, _, err = paceline(*answered, "--table", out / "table.json", "--certified-only", "--warmup", "0")
    assert code == 0, err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--certify", "0.03"), "two numbers, the largest loss and the probability of error"),
        (("--certify", "3,0.1"), "the largest loss of accuracy, between 0 and 1"),
        (("--certify", "0.03,0.9"), "the probability of a false certificate"),
        (("--certify", "0.03,0.1", "--minutes", "0"), "a number of minutes above 0"),
        (("--certify", "0.03,0.1", "--questions", "1"), "a whole number from 2"),
        (("--minutes", "3"), "nothing without --certify"),
        (("--questions", "3"), "nothing without --certify"),
    ],
)
def test_wrong_flags_are_sentences(paceline, tmp_path, flags, words):
    code, _, err = paceline("profile", "digits", "--out", tmp_path / "profile", *flags)
    assert code == 2 and words in err
