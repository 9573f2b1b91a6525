"""Every case of every recorded file: the scorers give what the official scripts gave."""

from collections import defaultdict
from statistics import fmean

import pytest

from paceline.datasets.scorers.anls import anls
from paceline.datasets.scorers.cider import Captioned, cider
from paceline.datasets.scorers.mmmu import (
    SUBJECTS_OF_DOMAIN,
    chosen_letter,
    mmmu_choice,
    mmmu_open,
    open_candidates,
)
from paceline.datasets.scorers.multiple_choice import chosen_option, multiple_choice
from paceline.datasets.scorers.ptb_tokens import caption_tokens
from paceline.datasets.scorers.tally import (
    counting_split,
    exact_count,
    exact_count_normalised,
    official_count,
    root_mean_square_error,
)
from paceline.datasets.scorers.vqa import (
    text_vqa_accuracy,
    text_vqa_normalised,
    vqa_accuracy,
    vqa_accuracy_normalised,
    vqa_normalised,
)


def test_normalised_texts_equal_those_of_both_scripts(golden_metric):
    cases = golden_metric("vqa_normalisation")["cases"]
    assert [vqa_normalised(case["text"]) for case in cases] == [case["vqa_script"] for case in cases]
    assert [text_vqa_normalised(case["text"]) for case in cases] == [case["mmf"] for case in cases]


def _percent_by(kind, cases):
    scores = defaultdict(list)
    for case in cases:
        scores[case[kind]].append(vqa_accuracy(case["prediction"], case["answers"]))
    return {name: round(100 * fmean(values), 2) for name, values in scores.items()}


@pytest.mark.parametrize("name", ["coco_2014_vqa", "okvqa"])
def test_vqa_accuracy_equals_the_official_script(golden_metric, name):
    golden = golden_metric(name)
    for case in golden["cases"]:
        scored = vqa_accuracy(case["prediction"], case["answers"])
        assert scored == pytest.approx(case["score"], abs=golden["tolerance"]), case["id"]
    corpus = golden["corpus"]
    assert _percent_by("answer_type", golden["cases"]) == corpus["official_per_answer_type_percent"]
    assert _percent_by("question_type", golden["cases"]) == corpus["official_per_question_type_percent"]
    scores = [vqa_accuracy(case["prediction"], case["answers"]) for case in golden["cases"]]
    assert round(100 * fmean(scores), 2) == corpus["official_overall_percent"]


@pytest.mark.parametrize("name", ["coco_2014_vqa", "okvqa"])
def test_the_rule_that_always_normalises_equals_lmms_eval_where_that_gives_a_score(golden_metric, name):
    golden = golden_metric(name)
    # a question of one answer has no others to agree with: lmms-eval divides by nothing there
    judged = [
        case for case in golden["cases"] if case["variants"]["lmms_eval"] is not None and len(case["answers"]) == 10
    ]
    for case in judged:
        scored = vqa_accuracy_normalised(case["prediction"], case["answers"])
        assert scored == pytest.approx(case["variants"]["lmms_eval"], abs=golden["tolerance"]), case["id"]
    assert len(judged) > 50


def test_text_vqa_accuracy_equals_mmf(golden_metric):
    golden = golden_metric("text_vqa")
    for case in golden["cases"]:
        scored = text_vqa_accuracy(case["prediction"], case["answers"])
        assert scored == pytest.approx(case["score"], abs=golden["tolerance"]), case["id"]


@pytest.mark.parametrize("name", ["doc_qa", "st_qa"])
def test_anls_equals_the_competition_script(golden_metric, name):
    golden = golden_metric(name)
    scores = [anls(case["prediction"], case["answers"]) for case in golden["cases"]]
    for case, scored in zip(golden["cases"], scores, strict=True):
        assert scored == pytest.approx(case["score"], abs=golden["tolerance"]), case["id"]
    assert fmean(scores) == pytest.approx(golden["corpus"]["official_score"], abs=golden["tolerance"])


def test_multiple_choice_equals_the_parser_of_llava(golden_metric):
    for case in golden_metric("science_qa_img")["cases"]:
        count = len(case["choices"])
        assert chosen_option(case["prediction"], count) == case["parsed_index"], case["id"]
        scored = multiple_choice(case["prediction"], answer=case["answer"], num_choices=count)
        assert scored == case["score"], case["id"]


def _recorded(value):
    return float(value["num"]) if "num" in value else value["str"]


def _mmmu_score(case):
    answers = case["answer"] if isinstance(case["answer"], list) else [case["answer"]]
    if case["question_type"] == "open":
        return mmmu_open(case["prediction"], answers=answers)
    return mmmu_choice(case["prediction"], answers=answers, options=case["options"])


def test_mmmu_parses_and_scores_as_its_own_script_without_the_guess(golden_metric):
    for case in golden_metric("mmmu")["cases"]:
        if case["question_type"] == "open":
            assert open_candidates(case["prediction"]) == {_recorded(value) for value in case["parsed"]}, case["id"]
        else:
            assert chosen_letter(case["prediction"], case["options"]) == case["parsed"], case["id"]
        assert _mmmu_score(case) == case["score"], case["id"]


def test_mmmu_tables_by_subject_and_domain(golden_metric):
    golden = golden_metric("mmmu")
    scores = defaultdict(list)
    for case in golden["cases"]:
        domain = next(name for name, subjects in SUBJECTS_OF_DOMAIN.items() if case["subject"] in subjects)
        for group in (case["subject"], f"Overall-{domain}", "Overall"):
            scores[group].append(_mmmu_score(case))
    for group, recorded in golden["corpus"]["official_rounded_by_subject_and_domain"].items():
        assert (len(scores[group]), round(fmean(scores[group]), 3)) == (recorded["num"], recorded["acc"]), group


def test_tally_counts_splits_and_errors(golden_metric):
    golden = golden_metric("tally_qa")
    by_split = defaultdict(list)
    for case in golden["cases"]:
        count = official_count(case["prediction"])
        split = counting_split(data_source=case["data_source"], is_simple=case["issimple"])
        assert (count, split) == (case["official_count"], case["official_split"]), case["id"]
        assert exact_count(case["prediction"], answer=case["answer"]) == case["score"], case["id"]
        normalised = exact_count_normalised(case["prediction"], answer=case["answer"])
        assert normalised == case["variants"]["vqa_normalised_exact"], case["id"]
        if count is not None:
            for group in {split, "overall"} - {None}:
                by_split[group].append((count, case["answer"]))
    for group in ("overall", "simple", "complex"):
        _assert_figures(by_split[group], golden["corpus"][group], golden["tolerance"])


def test_tally_figures_on_whole_numbers(golden_metric):
    golden = golden_metric("tally_qa")
    for corpus in golden["count_corpora"]:
        _assert_figures(list(zip(corpus["predictions"], corpus["answers"], strict=True)), corpus, golden["tolerance"])


def _assert_figures(pairs, recorded, tolerance):
    counts, answers = zip(*pairs, strict=True)
    right = 100 * fmean(said == true for said, true in pairs)
    assert right == pytest.approx(recorded["accuracy_percent"], abs=tolerance)
    assert root_mean_square_error(counts, answers) == pytest.approx(recorded["rmse"], abs=tolerance)


def test_caption_tokens_equal_the_penn_treebank_tokenizer(golden_metric):
    for case in golden_metric("coco_caption_tokens")["cases"]:
        assert " ".join(caption_tokens(case["text"])) == case["tokens"], case["text"]
    for case in golden_metric("coco_caption")["cases"]:
        texts, tokens = (
            [case["prediction"], *case["references"]],
            [case["prediction_tokens"], *case["reference_tokens"]],
        )
        assert [" ".join(caption_tokens(text)) for text in texts] == tokens


def test_cider_of_every_corpus_and_picture(golden_metric):
    golden = golden_metric("coco_caption")
    for corpus in golden["corpora"]:
        cases = {str(case["image_id"]): case for case in golden["cases"] if case["corpus"] == corpus["corpus"]}
        scores = cider(
            {
                picture: Captioned(prediction=case["prediction"], references=case["references"])
                for picture, case in cases.items()
            }
        )
        assert scores.corpus == pytest.approx(corpus["cider"], abs=golden["tolerance"])
        for picture, case in cases.items():
            assert scores.by_picture[picture] == pytest.approx(case["score"], abs=golden["tolerance"])
