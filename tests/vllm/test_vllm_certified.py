"""A certified profile made in vLLM: accuracies of full batches, latencies of one request alone, transformers' certificate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.control import LookupTable
from paceline.errors import TableError
from paceline.fit.certified import CertifyPlan, run_certified
from paceline.measure.profiling import ProfilePlan
from paceline.models.loading import load_model
from paceline.profiles import read_profile
from paceline.profiles.answers import read_answers
from paceline.runtime import AdaptiveModel

HERE = Path(__file__).parent
PROFILE = ProfilePlan(
    datasets=("digits_exist",),
    samples=1,
    tiers=("low",),
    top_ks=(8,),
    block_counts=(10, 16),
    warmup_runs=0,
    max_new_tokens=6,
)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The engine's profile on its way, in a process of its own, while transformers makes its own here."""
    out = tmp_path_factory.mktemp("engine") / "profile"
    paths = [HERE / "torchvision_standin", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "engine_certified.py"), str(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield out, process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def stored(started, of_transformers):
    del of_transformers  # made meanwhile
    out, process = started
    said, errors = process.communicate(timeout=800)
    assert process.returncode == 0, errors[-3000:]
    return out, json.loads(said)


@pytest.fixture(scope="module")
def of_transformers(started, tmp_path_factory):
    del started  # first: it takes longer
    model = load_model("digits", device="cpu", dtype="float32")
    plan = CertifyPlan(profile=PROFILE, epsilon=0.3, delta=0.3, questions=64, batch_size=11)
    return run_certified(model, plan, tmp_path_factory.mktemp("transformers") / "profile")


def decided(certificate):
    told = [(each.config, each.asked, each.broken, each.mended) for each in certificate.claims]
    return told, certificate.rule, certificate.mix, certificate.full


def test_the_certificate_is_that_of_transformers_with_the_engines_own_bounds(stored, of_transformers):
    out, told = stored
    certificate = LookupTable.load(told["table"]).certificate
    assert decided(certificate) == decided(of_transformers.certificate)
    [run] = read_profile(out).provenance
    assert run.engine == "vllm" and not (out / "steps").exists()
    with pytest.raises(TableError, match="profile digits without --engine"):
        AdaptiveModel.from_pretrained("digits", controller=out / "table.json", device="cpu", certified_only=True)


def test_answers_come_from_full_batches_and_each_is_asked_once(stored, of_transformers):
    out, told = stored
    answers = list(read_answers(out))
    own = {each.key: each.accuracy for each in read_answers(of_transformers.out)}
    assert {each.key: each.accuracy for each in answers} == own and len(answers) == len(own) == told["cells"]
    assert all(each.batch_size <= 2 * 11 for each in answers) and answers[0].batch_size > 11
    assert told["cells_seconds"] == pytest.approx(sum(each.seconds for each in answers))


def test_requests_are_timed_alone_and_the_choosing_ones_say_whether_batches_differ(stored):
    out, told = stored
    samples = read_profile(out).samples
    together = [json.loads(text).get("answered_together") for text in samples["metadata"]]
    assert told["timed_cells"] == samples.height and together.count(2) == 2 * told["choosing_questions"]
    assert set(together) <= {2, None}
    assert told["answers_together"]["count"] == together.count(2) and told["answers_together"]["differing"] == 0
    assert told["full_seconds"] > told["timed_cells_seconds"] > 0
