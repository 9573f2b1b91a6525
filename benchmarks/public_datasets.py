"""Load, decode and score 200,000 synthetic VQA rows next to Hugging Face `datasets` alone; scorers by the second.

    python benchmarks/public_datasets.py [--rows 200000] [--files 50] [--paired 50] [--data DIRECTORY]

Writes benchmarks/results/public_datasets.json. Rows and pictures (640 x 480 JPEG, 512 different ones) are synthetic. Both
ways run in a process of their own over the same files (the first `--paired` ones), taking turns file by file; the first file
is for warming up and not counted. Seconds are those of the processor, since other work may share the machine, and of the
clock beside them. Peak memory is that of the process, libraries included; that of `streaming` is over all rows, of which every
tenth picture is decoded.
"""

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from provenance import provenance

PICTURES, ROW_GROUP = 512, 100
WORDS = [
    "yes",
    "no",
    "2",
    "red",
    "the left",
    "man",
    "dog",
    "white",
    "two",
    "a cat",
    "on table",
    "blue",
    "none",
    "1",
    "3",
]
RESULTS = Path(__file__).parent / "results" / "public_datasets.json"
MEBIBYTE = 2**20
WAYS = ("datasets", "paceline")
SCORED_ROWS, CAPTIONED = 20_000, 5000


def drawn_picture(number: int) -> bytes:
    """Return one synthetic 640 x 480 JPEG: a gradient with shapes and noise, as large as a photograph's file."""
    draw = random.Random(number)
    noise = Image.effect_noise((640, 480), 24).convert("RGB")
    picture = Image.blend(Image.linear_gradient("L").resize((640, 480)).convert("RGB"), noise, 0.12)
    pen = ImageDraw.Draw(picture)
    for _ in range(24):
        left, top = draw.randrange(600), draw.randrange(440)
        colour = (draw.randrange(256), draw.randrange(256), draw.randrange(256))
        pen.ellipse((left, top, left + draw.randrange(20, 160), top + draw.randrange(20, 160)), fill=colour)
    with tempfile.SpooledTemporaryFile(max_size=MEBIBYTE) as stream:
        picture.save(stream, "JPEG", quality=80)
        stream.seek(0)
        return stream.read()


def row(number: int, pictures: list[bytes]) -> dict[str, Any]:
    """Return one row in the schema of VQA v2.0."""
    draw = random.Random(number)
    common, rare = draw.choice(WORDS), draw.choice(WORDS)
    return {
        "question_type": draw.choice(("what is the", "how many", "is the")),
        "multiple_choice_answer": common,
        "answers": [
            {"answer": common if person < 7 else rare, "answer_confidence": "yes", "answer_id": person + 1}
            for person in range(10)
        ],
        "image_id": number // 3,
        "answer_type": draw.choice(("other", "number", "yes/no")),
        "question_id": number,
        "question": f"What is {common} in picture {number % 97}?",
        "image": {"bytes": pictures[(number // 3) % PICTURES], "path": None},
    }


def write_rows(folder: Path, rows: int, files: int) -> list[Path]:
    """Write the synthetic rows as Parquet files of the hub's form; returns their paths."""
    import pyarrow as pa  # the data is made here, and read through the ways that are compared
    import pyarrow.parquet as pq

    pictures = [drawn_picture(number) for number in range(PICTURES)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths: list[Path] = []
    for part in range(files):
        path = folder / f"validation-{part:05d}-of-{files:05d}.parquet"
        first, last = part * rows // files, (part + 1) * rows // files
        with pq.ParquetWriter(path, _schema(pa, kind)) as writer:
            for start in range(first, last, ROW_GROUP):
                made = [row(number, pictures) for number in range(start, min(start + ROW_GROUP, last))]
                writer.write_table(pa.Table.from_pylist(made, schema=_schema(pa, kind)), row_group_size=ROW_GROUP)
        paths.append(path)
    return paths


def _schema(pa: Any, picture: Any) -> Any:
    answer = pa.struct([("answer", pa.string()), ("answer_confidence", pa.string()), ("answer_id", pa.int64())])
    texts = ("question_type", "multiple_choice_answer", "answer_type", "question")
    # what `datasets` writes into a file so that it decodes the column as pictures
    names = {**dict.fromkeys(texts, "string"), "image_id": "int64", "question_id": "int64"}
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in names.items()}
    inner = {"answer": "string", "answer_confidence": "string", "answer_id": "int64"}
    features["answers"] = [{name: {"dtype": kind, "_type": "Value"} for name, kind in inner.items()}]
    features["image"] = {"_type": "Image"}
    fields = [(name, pa.string()) for name in texts]
    fields += [("answers", pa.list_(answer)), ("image_id", pa.int64()), ("question_id", pa.int64()), ("image", picture)]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def by_datasets(path: Path) -> int:
    """Decode every row of a file with `datasets` alone, streaming; returns how many."""
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files={"validation": str(path)}, split="validation", streaming=True)
    return sum(entry["image"].size[0] > 0 for entry in rows)  # pyright: ignore[reportArgumentType, reportCallIssue]


def by_paceline(path: Path) -> int:
    """Load, decode and score every row of a file as questions; returns how many."""
    from paceline.datasets import score
    from paceline.datasets.loading import stream_questions
    from paceline.datasets.question_sets import open_set, set_requests

    opened = open_set(set_requests([f"coco_2014_vqa={path}"])[0])
    count = 0
    for question in stream_questions(opened):
        score(question, WORDS[count % len(WORDS)])
        count += question.picture.width > 0
    return count


def by_streaming(folder: Path) -> int:
    """Load and score every row of all files, and decode every tenth picture; returns how many rows."""
    from paceline.datasets import score
    from paceline.datasets.loading import stream_questions
    from paceline.datasets.question_sets import open_set, set_requests

    opened = open_set(set_requests([f"coco_2014_vqa={folder}"])[0])
    count = 0
    for question in stream_questions(opened):
        score(question, WORDS[count % len(WORDS)])
        count += 1 if count % 10 else question.picture.width > 0
    return count


def by_sampling(folder: Path) -> int:
    """Draw 1,000 questions of all files, each decoded once; returns how many."""
    from paceline.datasets.question_sets import load_question_set, set_requests

    return len(load_question_set(set_requests([f"coco_2014_vqa={folder}"])[0], count=1000, seed=3407).questions)


RUNS: dict[str, Callable[[Path], int]] = {
    "datasets": by_datasets,
    "paceline": by_paceline,
    "streaming": by_streaming,
    "sampling": by_sampling,
}


def work(way: str) -> None:
    """Answer each path on standard input with rows, seconds of processor and clock, and peak memory so far."""
    for line in sys.stdin:
        started, used = time.perf_counter(), time.process_time()
        rows = RUNS[way](Path(line.strip()))
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}), flush=True)


class Worker:
    """A process of its own for one way."""

    def __init__(self, way: str) -> None:
        command = [sys.executable, __file__, "--work", way]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def over(self, path: Path) -> dict[str, float]:
        """Go over one file or folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compared(paths: list[Path]) -> dict[str, Any]:
    """Let both ways go over the files in turn; each begins as often as the other."""
    workers = {way: Worker(way) for way in WAYS}
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for index, path in enumerate(paths):
        for way in WAYS if index % 2 else WAYS[::-1]:
            runs[way].append(workers[way].over(path))
            print(f"{way}, file {index + 1} of {len(paths)}: {runs[way][-1]}", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.end()
    runs = {way: found[1:] for way, found in runs.items()}  # the first file imports libraries
    ratios = [ours["cpu_seconds"] / theirs["cpu_seconds"] for theirs, ours in zip(*runs.values(), strict=True)]
    clock = [ours["seconds"] / theirs["seconds"] for theirs, ours in zip(*runs.values(), strict=True)]
    return {
        "ratio_of_cpu_seconds": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "ratio_of_seconds": {"median": statistics.median(clock), "lowest": min(clock), "highest": max(clock)},
        **{
            way: {
                "rows": sum(each["rows"] for each in found),
                "cpu_seconds": sum(each["cpu_seconds"] for each in found),
                "seconds": sum(each["seconds"] for each in found),
                "peak_mib": max(each["peak_mib"] for each in found),
            }
            for way, found in runs.items()
        },
    }


def alone(way: str, folder: Path) -> dict[str, float]:
    """Let one way go over all rows, in a process of its own."""
    worker = Worker(way)
    found = worker.over(folder)
    worker.end()
    return found


def texts(count: int, words: int, seed: int) -> Iterator[str]:
    """Yield texts of made-up words and numbers, so that few are alike."""
    draw = random.Random(seed)
    for number in range(count):
        made = (draw.choice([*WORDS, f"word{draw.randrange(5000)}", str(number % 900)]) for _ in range(words))
        yield " ".join(made)


def scorers() -> dict[str, float]:
    """Return VQA answers and ANLS pairs a second of processor time, and the seconds of 5,000 captioned pictures."""
    from paceline.datasets.scorers.anls import anls
    from paceline.datasets.scorers.cider import Captioned, cider
    from paceline.datasets.scorers.vqa import vqa_accuracy

    said, true = list(texts(SCORED_ROWS, 2, 1)), list(texts(SCORED_ROWS, 2, 2))
    answers = [[true[number]] * 6 + [said[number]] * 4 for number in range(SCORED_ROWS)]
    vqa = _cpu_seconds(lambda: [vqa_accuracy(text, given) for text, given in zip(said, answers, strict=True)])
    long_said, long_true = list(texts(SCORED_ROWS, 4, 3)), list(texts(SCORED_ROWS, 4, 4))
    pairs = _cpu_seconds(lambda: [anls(text, [given]) for text, given in zip(long_said, long_true, strict=True)])
    sentences = list(texts(CAPTIONED * 6, 10, 5))
    captions = {
        str(number): Captioned(prediction=sentences[number * 6], references=sentences[number * 6 + 1 : number * 6 + 6])
        for number in range(CAPTIONED)
    }
    return {
        "vqa_answers_per_second": SCORED_ROWS / vqa,
        "anls_pairs_per_second": SCORED_ROWS / pairs,
        "cider_seconds_of_5000_pictures": _cpu_seconds(lambda: cider(captions)),
    }


def _cpu_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    """Make the rows, compare, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--paired", type=int, default=50, help="how many files both ways go over")
    parser.add_argument("--data", type=Path, help="where the rows are written; a temporary folder, removed, by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    folder = Path(tempfile.mkdtemp(prefix="paceline-datasets-")) if given.data is None else given.data
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(folder.glob("*.parquet")) or write_rows(folder, given.rows, given.files)
    found = {
        **provenance("public_datasets.py"),
        "synthetic": True,
        "bytes": sum(path.stat().st_size for path in paths),
        "scorers": scorers(),
        "sample_of_1000": alone("sampling", folder),
        "streaming": alone("streaming", folder),
        "paired": compared(paths[: given.paired]),
    }
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if given.data is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
