import io
import json
import re
from dataclasses import replace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_sets
from PIL import Image

from paceline.datasets import score
from paceline.datasets.hub import hub_files
from paceline.datasets.loading import sample_questions, stream_questions
from paceline.datasets.picture_source import side_by_side
from paceline.datasets.public import PUBLIC_SETS
from paceline.datasets.question_sets import load_question_set, open_set, set_requests
from paceline.datasets.sources import HubPlace, parse_place
from paceline.errors import DatasetError, InvalidValueError, UnknownChoiceError

NAMES = tuple(PUBLIC_SETS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A folder of eight synthetic rows of every set, in two files each."""
    out = tmp_path_factory.mktemp("sets")
    return {name: synthetic_sets.write_set(out, name) for name in NAMES}


def opened(name, place, **changes):
    return open_set(set_requests([f"{name}={place}"], **changes)[0])


def asked(name, place, **changes):
    return {each.sample_id: each for each in stream_questions(opened(name, place, **changes))}


def of_rows(tmp_path, name, rows, **changes):
    return asked(name, synthetic_sets.write_set(tmp_path, name, rows=rows, files=1), **changes)


def test_there_is_a_synthetic_copy_of_every_set():
    assert set(synthetic_sets.ROWS) == set(NAMES) and len(NAMES) == 9
    assert {name: PUBLIC_SETS[name].default_split for name in NAMES} == synthetic_sets.SPLITS


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_all_is_the_stream_in_another_order(folders, name):
    streamed = asked(name, folders[name])
    everything = sample_questions(opened(name, folders[name]), count=999, seed=3)
    assert everything.available == len(everything.questions) == len(streamed)
    assert {each.sample_id: each for each in everything.questions} == streamed
    for each in everything.questions:
        assert each.picture.mode == "RGB" and each.picture.size == streamed[each.sample_id].picture.size
        assert each.picture_sha256 == streamed[each.sample_id].picture_sha256
    fewer = sample_questions(opened(name, folders[name]), count=3, seed=3)
    assert fewer.questions == everything.questions[:3]


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_itself_scores_full(folders, name):
    for question in asked(name, folders[name]).values():
        found = score(question, question.references[0])
        if name == "coco_caption":
            assert found is None  # judged as a whole set
        elif name == "coco_2014_vqa":
            assert found == pytest.approx(1.0)
        elif name == "okvqa":
            assert found == pytest.approx(0.6)  # two of ten say so
        else:
            assert found == 1.0


def test_rows_become_questions_as_each_set_means_them(folders):
    vqa = asked("coco_2014_vqa", folders["coco_2014_vqa"])
    assert list(vqa)[:2] == ["1000", "1001"] and len(vqa["1000"].references) == 10
    assert vqa["1000"].picture_id == vqa["1001"].picture_id == "100" and vqa["1002"].picture_id == "101"
    assert vqa["1001"].types == ("answer_type=number", "question_type=how many")
    okvqa = asked("okvqa", folders["okvqa"])  # without picture ids: equal bytes are one picture
    assert okvqa["5000"].picture_id == okvqa["5001"].picture_id != okvqa["5002"].picture_id
    assert list(asked("st_qa", folders["st_qa"]))[:4] == ["0-0", "1-0", "1-1", "2-0"]
    assert list(asked("st_qa", folders["st_qa"]))[-1] == "7-1"  # rows are numbered over both files
    tally = asked("tally_qa", folders["tally_qa"])
    assert (tally["1-0"].references, tally["1-0"].types) == (("2",), ("split=simple",))
    assert tally["1-1"].types == ("split=complex",) and tally["1-1"].picture_id == "1"
    captions = asked("coco_caption", folders["coco_caption"])
    assert next(iter(captions)) == "1" and len(captions["1"].references) == 3
    page = asked("doc_qa", folders["doc_qa"])["7001"]
    assert page.types == ("question_types=handwritten", "question_types=form")


def test_science_questions_without_a_picture_are_counted_and_no_error(folders):
    sampled = sample_questions(opened("science_qa_img", folders["science_qa_img"]), count=99, seed=1)
    assert (sampled.available, sampled.left_out) == (7, 1)
    by_id = {each.sample_id: each for each in sampled.questions}
    assert "4" not in by_id and by_id["5"].references == ("C",)  # ids stay the rows' own
    assert by_id["1"].prompt == (
        "Context: The discs are drawn.\nWhich of these colours does the first disc have?\nA. red\nB. green\nC. blue\n"
        "D. orange\nAnswer with the option's letter from the given choices directly."
    )
    assert by_id["0"].prompt.startswith("Which of these")


def test_mmmu_reads_list_literals_and_several_pictures(folders):
    found = asked("mmmu", folders["mmmu"])
    choice, two, _, opened_ = (found[name] for name in sorted(found, key=lambda each: int(each.split("_")[-1]))[:4])
    assert choice.choices == ("1", "2", "3", "4") and choice.references == ("A",)
    assert opened_.choices == () and opened_.references == ("4", "four") and "letter" not in opened_.prompt
    assert [each.open().size for each in two.pictures] == [(96, 72)] * 2 and two.picture.size == (192, 72)
    assert "subject=Math" in choice.types and "domain=Science" in choice.types


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"options": "__import__('os').getcwd()"}, "field 'options'"),
        ({"options": "['1', '2']", "answer": "C"}, "a letter of its 2 options"),
        ({"answer": "?"}, "take a split with answers"),
        ({"image_2": None}, "field 'image_2': is null"),
    ],
)
def test_mmmu_rows_that_cannot_be_asked_are_named(tmp_path, changed, words):
    rows = [synthetic_sets.mmmu(0), {**synthetic_sets.mmmu(1), **changed}]
    with pytest.raises(DatasetError, match=re.escape(words)) as refused:
        of_rows(tmp_path, "mmmu", rows)
    assert refused.value.row == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_missing_column_is_named(folders, tmp_path, name):
    whole = pq.read_table(next((folders[name] / "data").glob("*.parquet")))
    for column in PUBLIC_SETS[name].columns:
        path = tmp_path / f"{column}.parquet"
        pq.write_table(whole.drop_columns([column]), path)
        with pytest.raises(DatasetError, match=f"{column}.parquet, field '{column}': is missing; the columns are"):
            sample_questions(opened(name, path), count=1, seed=1)
        place = whole.schema.get_field_index(column)
        pq.write_table(whole.set_column(place, column, pa.array([0.5] * len(whole))), path)
        with pytest.raises(DatasetError, match=f"field '{column}': holds double; expected"):
            list(stream_questions(opened(name, path)))


def test_a_missing_column_of_nested_questions_is_named(tmp_path):
    path = tmp_path / "set.parquet"
    rows = [{"image": synthetic_sets.picture(0), "qa": [{"question": "How many?", "answer": 1}]}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(DatasetError, match="field 'qa.is_simple': is missing; the columns are question, answer"):
        list(stream_questions(opened("tally_qa", path)))
    rows[0]["qa"] = [{"question": "How many?", "answer": "3", "issimple": None, "data_source": "amt"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert asked("tally_qa", path)["0-0"].types == ("split=complex",)


@pytest.mark.parametrize(
    ("name", "changed", "field", "words"),
    [
        ("text_vqa", {"answers": ["1"] * 3}, "answers", "expected those of ten people"),
        ("text_vqa", {"answers": None}, "answers", "take a split with answers"),
        ("doc_qa", {"answers": []}, "answers", "take a split with answers"),
        ("coco_2014_vqa", {"answers": None}, "answers", "take a split with answers"),
        ("okvqa", {"question": None}, "question", "expected a value in every row"),
        ("science_qa_img", {"answer": 7}, "answer", "is 7; expected an index of 4 choices"),
        ("science_qa_img", {"answer": -1}, "answer", "a whole number of at least 0"),
        ("coco_caption", {"question_id": "val_x"}, "question_id", "the picture's number"),
        ("tally_qa", {"qa": []}, "qa", "at least one question"),
        ("st_qa", {"qas": [{"question": "What?", "answers": None}]}, "answers", "take a split with answers"),
        ("doc_qa", {"image": None}, "image", "is null; expected a picture"),
        ("doc_qa", {"image": {"bytes": None, "path": "page.png"}}, "image", "is the path 'page.png' alone"),
        ("doc_qa", {"image": {"bytes": b"no picture", "path": None}}, "image", "the picture cannot be used"),
        ("doc_qa", {"image": {"bytes": synthetic_sets.drawn(1)[:400], "path": None}}, "image", "cannot be used"),
        ("doc_qa", {"questionId": "7000"}, "questionId", "'7000' stands in row 0 of the split already"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named_and_not_skipped(tmp_path, name, changed, field, words):
    rows = [synthetic_sets.ROWS[name](0), {**synthetic_sets.ROWS[name](1), **changed}]
    folder = synthetic_sets.write_set(tmp_path, name, rows=rows, files=1)
    with pytest.raises(DatasetError, match=re.escape(words)) as refused:
        sample_questions(opened(name, folder), count=9, seed=1)
    assert (refused.value.row, refused.value.field) == (1, field) and "00000-of-00001.parquet" in refused.value.place


def test_splits_without_answers_are_refused_by_name(folders, tmp_path):
    with pytest.raises(DatasetError, match="the split 'test' holds no answers; expected validation or train"):
        opened("text_vqa", folders["text_vqa"], split="test")
    with pytest.raises(DatasetError, match="'testdev' holds no answers"):
        opened("coco_2014_vqa", folders["coco_2014_vqa"], split="testdev")
    with pytest.raises(UnknownChoiceError, match="did you mean 'validation'"):
        opened("text_vqa", folders["text_vqa"], split="validate")
    with pytest.raises(DatasetError, match="holds files of validation; expected Parquet files of the split train"):
        opened("text_vqa", folders["text_vqa"], split="train")
    (tmp_path / "testdev-00000-of-00001.parquet").touch()
    with pytest.raises(DatasetError, match="holds files of testdev; expected Parquet files of the split validation"):
        opened("coco_2014_vqa", tmp_path)


def test_files_are_found_by_name_folder_or_config(tmp_path, folders):
    source = sorted((folders["doc_qa"] / "data").glob("*.parquet"))[0]
    hub_like = tmp_path / "hub" / "DocVQA"
    hub_like.mkdir(parents=True)
    (tmp_path / "hub" / "InfographicVQA").mkdir()
    (tmp_path / "hub" / "InfographicVQA" / "validation-00000-of-00001.parquet").touch()
    (hub_like / "validation-00000-of-00001.parquet").write_bytes(source.read_bytes())
    assert len(asked("doc_qa", tmp_path / "hub")) == 4
    by_folder = tmp_path / "plain" / "validation"
    by_folder.mkdir(parents=True)
    (by_folder / "0000.parquet").write_bytes(source.read_bytes())
    assert len(asked("doc_qa", tmp_path / "plain")) == 4
    assert len(asked("doc_qa", by_folder / "0000.parquet")) == 4


def test_places_that_hold_no_set_are_refused(tmp_path):
    (tmp_path / "data-00000-of-00001.arrow").touch()
    with pytest.raises(DatasetError, match="holds Arrow files, as save_to_disk writes them"):
        opened("doc_qa", tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        opened("doc_qa", tmp_path / "none")
    (tmp_path / "set.csv").write_text("question")
    with pytest.raises(DatasetError, match="is no Parquet file"):
        opened("doc_qa", tmp_path / "set.csv")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DatasetError, match=r"torn.parquet: cannot be read"):
        sample_questions(opened("doc_qa", tmp_path / "torn.parquet"), count=1, seed=1)
    with pytest.raises(InvalidValueError, match="the place where it is read too"):
        set_requests(["doc_qa"])
    with pytest.raises(InvalidValueError, match="ships with the package"):
        set_requests(["digits_read=hub"])


def test_prompts_and_scorers_are_the_users_when_named(folders):
    place = folders["science_qa_img"]
    for template in (r"{question} Or:\n{options}", r"science_qa_img={question} Or:\n{options}"):
        own = asked("science_qa_img", place, prompt_templates=[template])["0"]
        assert own.prompt == "Which of these colours does the first disc have? Or:\nA. red\nB. green\nC. blue"
    for wrong in ("{answer}", "{question", "{question!r}", "{question.__class__}", "{0}", " "):
        with pytest.raises(InvalidValueError, match="prompt template"):
            set_requests([f"science_qa_img={place}"], prompt_templates=[wrong])
    normalised = asked("coco_2014_vqa", folders["coco_2014_vqa"], scorers=["vqa_normalised/1"])["1000"]
    agreed = replace(normalised, references=("yes",) * 10)
    assert score(agreed, "Yes.") == 1.0 and score(replace(agreed, scorer="vqa/1"), "Yes.") == 0.0
    with pytest.raises(UnknownChoiceError, match="did you mean 'vqa/1'"):
        set_requests([f"okvqa={place}"], scorers=["okvqa=vqa/2"])


def test_places_are_read_as_written():
    assert parse_place("hub") == HubPlace()
    assert parse_place("hub@main") == HubPlace(revision="main")
    assert parse_place("hub:owner/name@0123") == HubPlace(hub_id="owner/name", revision="0123")
    assert str(parse_place("folder@2/set")) == "folder@2/set"
    for wrong in ("", "hub:", "hub:owner", "hub@", "hub:a/b/c"):
        with pytest.raises(InvalidValueError):
            parse_place(wrong)


class Builder:
    """What `load_dataset_builder` returns, as far as it is read."""

    def __init__(self, data_files):
        self.config = type("Config", (), {"data_files": data_files})()


def test_the_hub_is_read_at_a_commit_that_is_recorded(folders, monkeypatch):
    commit, memory = "0123456789abcdef0123456789abcdef01234567", fsspec.filesystem("memory")
    urls = []
    for file in sorted((folders["doc_qa"] / "data").glob("*.parquet")):
        memory.pipe(f"/lmms-lab/DocVQA@{commit}/{file.name}", file.read_bytes())
        urls.append(f"memory://lmms-lab/DocVQA@{commit}/{file.name}")
    called = []

    def builder(hub_id, config, *, revision):
        called.append((hub_id, config, revision))
        return Builder({"validation": urls})

    monkeypatch.setattr("paceline.datasets.hub.load_dataset_builder", builder)
    monkeypatch.setattr("paceline.datasets.hub.STORE", "memory://")
    remote = load_question_set(set_requests(["doc-qa=hub@main"])[0], count=5, seed=1)
    assert called == [("lmms-lab/DocVQA", "DocVQA", "main")]
    assert remote.source.revision == commit and remote.source.place == "hub:lmms-lab/DocVQA"
    local = load_question_set(set_requests([f"doc_qa={folders['doc_qa']}"])[0], count=5, seed=1)
    told = [(each.sample_id, each.prompt, each.references) for each in remote.questions]
    assert told == [(each.sample_id, each.prompt, each.references) for each in local.questions]
    assert [each.picture_sha256 for each in remote.questions] == [each.picture_sha256 for each in local.questions]
    assert remote.source == replace(local.source, place="hub:lmms-lab/DocVQA", revision=commit)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr("paceline.datasets.hub.load_dataset_builder", unreachable)
    public = PUBLIC_SETS["doc_qa"]
    with pytest.raises(DatasetError, match=r"\(Couldn't reach the Hub\).*name a folder of its Parquet files"):
        hub_files(public, HubPlace(), "validation")
    monkeypatch.setattr("paceline.datasets.hub.load_dataset_builder", lambda *a, **k: Builder({"test": ["x.parquet"]}))
    with pytest.raises(DatasetError, match="has the splits test; expected Parquet files of the split validation"):
        hub_files(public, HubPlace(hub_id="some/other"), "validation")


@pytest.mark.parametrize(
    "file",
    [
        "http://169.254.169.254/validation.parquet",
        "file:///etc/validation.parquet",
        "hf://datasets/an/other@0/validation.parquet",
    ],
)
def test_a_repository_that_names_files_elsewhere_is_refused(file, monkeypatch):
    own = f"hf://datasets/some/other@{'0' * 40}/validation.parquet"
    for files in ([own], [own, file]):
        made = Builder({"validation": files})
        monkeypatch.setattr("paceline.datasets.hub.load_dataset_builder", lambda *a, made=made, **k: made)
        if file not in files:
            assert hub_files(PUBLIC_SETS["doc_qa"], HubPlace(hub_id="some/other"), "validation").files == (own,)
            continue
        with pytest.raises(DatasetError, match="expected files of its own"):
            hub_files(PUBLIC_SETS["doc_qa"], HubPlace(hub_id="some/other"), "validation")


def test_pictures_stand_side_by_side_on_white():
    joined = side_by_side([Image.new("RGB", (2, 3), "red"), Image.new("RGB", (4, 1), "blue")])
    assert joined.size == (6, 3) and joined.getpixel((0, 2)) == (255, 0, 0)
    assert joined.getpixel((5, 0)) == (0, 0, 255) and joined.getpixel((5, 2)) == (255, 255, 255)


def test_a_picture_is_opened_when_asked_and_stands_upright(tmp_path):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    row = {**synthetic_sets.doc_qa(0), "image": {"bytes": stream.getvalue(), "path": None}}
    question = of_rows(tmp_path, "doc_qa", [row])["7000"]
    assert question.picture.size == (20, 40) and question.picture is not question.picture


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("coco_2014_vqa", lambda case: (case["answers"], ())),
        ("text_vqa", lambda case: (case["answers"], ())),
        ("doc_qa", lambda case: (case["answers"], ())),
        ("tally_qa", lambda case: ([str(case["answer"])], ())),
        ("science_qa_img", lambda case: (["ABCDE"[case["answer"]]], case["choices"])),
        ("mmmu", lambda case: (case["answer"], case.get("options") or ())),
    ],
)
def test_questions_are_scored_by_the_golden_rules(folders, golden, name, inputs):
    any_question = next(iter(asked(name, folders[name]).values()))
    for case in golden[name]:
        references, choices = inputs(case)
        references = [references] if isinstance(references, str) else references
        question = replace(any_question, references=tuple(map(str, references)), choices=tuple(choices))
        assert score(question, case["prediction"]) == pytest.approx(case["score"], abs=1e-9), case


@pytest.fixture(scope="session")
def golden(request):
    data = request.config.rootpath / "tests" / "golden" / "data" / "metrics"
    return {path.stem: json.loads(path.read_text())["cases"] for path in data.glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_what_each_set_is(request, name):
    page = (request.config.rootpath / "docs" / "datasets.md").read_text()
    public = PUBLIC_SETS[name]
    line, columns = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert public.hub_ids[0] in line and all(f"`{scorer}`" in line for scorer in public.scorers)
    for split, rows in public.splits.items():
        assert split + (f" {rows:,}" if rows is not None else "") in line
    for column in (*public.columns, *public.nested_columns):
        assert column.split("|")[0] in columns, column
