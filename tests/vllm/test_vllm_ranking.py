"""Which blocks an engine may skip, and what it is told when its settings and its controller say different things."""

import json

import pytest
from learned_controllers import RUN, write_controller, write_estimator

from paceline.errors import InvalidValueError, PacelineError, TableError
from paceline.vllm_plugin.ranking import engine_ranking

BLOCKS = 4


def ranking(**cells):
    return engine_ranking({"paceline": cells}, BLOCKS)


@pytest.fixture(params=["a learned controller", "an estimator with bounds", "a table"])
def controller(request, tmp_path):
    """Write a controller of each kind with this provenance, and return its path."""

    def write(*runs):
        if request.param == "a table":
            return _table(tmp_path / "table.json", runs)
        writer = write_controller if request.param == "a learned controller" else write_estimator
        writer(tmp_path / "controller", provenance=runs)
        return str(tmp_path / "controller")

    return write


def _table(path, runs):
    entry = {"accuracy": 0.5, "latency": 10.0, "num_samples": 9, "accuracy_std": 0.0, "latency_std": 0.0}
    metadata = {
        **{"aggregation_method": "mean", "tolerance": 0.0, "use_prefill_only": True, "datasets": ["synthetic"]},
        **{"num_profiling_results": 9, "provenance": list(runs)},
    }
    document = {"config_table": {"high_8_4": entry}, "lookup_table": {}, "metadata": metadata}
    path.write_text(json.dumps(document))
    return str(path)


def test_without_a_ranking_and_a_controller_all_blocks_stay_active():
    assert engine_ranking(None, BLOCKS) == ranking() == ranking(controller=None) == ()


@pytest.mark.filterwarnings("ignore::paceline.errors.PacelineWarning")
def test_the_controllers_ranking_is_taken_and_one_beside_it_must_be_the_same(controller):
    path = controller(RUN, RUN)
    assert ranking(controller=path) == ranking(controller=path, block_ranking=[2, 1]) == (2, 1)
    with pytest.raises(InvalidValueError, match=r"block_ranking.* is \[1, 2\]; expected \[2, 1\].*was measured with"):
        ranking(controller=path, block_ranking=[1, 2])


@pytest.mark.filterwarnings("ignore::paceline.errors.PacelineWarning")
def test_a_controller_without_one_ranking_of_this_model(controller):
    silent = controller({"model": "synthetic"})
    with pytest.raises(TableError, match='does not say which decoder blocks.*set "block_ranking" beside "controller"'):
        ranking(controller=silent)
    assert ranking(controller=silent, block_ranking=[3]) == (3,)
    with pytest.raises(TableError, match="different block rankings"):
        ranking(controller=controller(RUN, {**RUN, "block_ranking": [1, 2]}))
    with pytest.raises(TableError, match="from 1 to 3"):
        ranking(controller=controller({**RUN, "block_ranking": [9]}))


@pytest.mark.parametrize("path", ["", 3, ["a"], True, {"path": "a"}])
def test_a_controller_that_is_no_path_is_refused(path):
    with pytest.raises(InvalidValueError, match="controller is .*expected the path"):
        ranking(controller=path)


def test_a_controller_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PacelineError, match="nothing"):
        ranking(controller=str(tmp_path / "nothing"))
