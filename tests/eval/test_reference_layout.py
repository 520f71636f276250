"""The reference's files: names, records, and that what is written can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caprl_native.config.cli import ConfigError
from caprl_native.testing.chat_server import serve
from eval.benchmarks import benchmarks
from eval.benchmarks.base import Files
from eval.items import Item
from eval.prism import INCOMPLETE
from eval.records import pair
from eval.report.published import PUBLISHED
from eval.report.reference import TAGS, ReferenceFiles, step_of
from eval.report.reference_results import read_reference
from tests.eval.benchmark_files import EXAMPLES, IMAGES, write_files
from tests.eval.reference_runs import grades, items, part, read_json, run, scripted

FULL = ["--rule", "caprl", "--reference-layout"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    names = ("mmstar", "mmbench_video")
    return {name: write_files(tmp_path_factory.mktemp(name), name) for name in names}


@pytest.fixture(scope="module")
def image_run(files: dict[str, Files], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("image") / "run"
    with serve(scripted) as server:
        assert run("mmstar", files["mmstar"], server.url, out, *FULL) == 0
    return out


@pytest.fixture(scope="module")
def video_run(files: dict[str, Files], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "run"
    with serve(scripted) as server, serve(grades) as judge:
        given = [*FULL[2:], "--step", "30"]
        name = "mmbench_video"
        assert run(name, files[name], server.url, out, *given, judge=judge.url) == 0
    return out


def test_every_published_benchmark_has_its_tag() -> None:
    assert set(TAGS) == set(EXAMPLES) <= set(benchmarks())
    names = ReferenceFiles(Path(), 400)
    assert str(names.details(benchmarks()["seed"])) == "Prism_seed2k_step_details_400_final.json"
    assert str(names.figures(benchmarks()["chartqapro"])) == (
        "Prism_ChartQA_Pro_step_eval_400_final.json"
    )
    assert str(names.captions(benchmarks()["visulogic"])) == (
        "intermediate_generations_VisuLogic_step400.jsonl"
    )
    assert str(names.captions(benchmarks()["videomme"])) == "intermediate_Video-MME_step400.json"
    assert str(names.details(benchmarks()["tomato"])) == "prism_TOMATO_details_step400.json"
    assert str(names.figures(benchmarks()["mmvu"])) == "prism_MMVU_summary_step400.json"
    assert str(names.inference(benchmarks()["mmvu"])) == "MMVU_inference_step400.json"


@pytest.mark.parametrize(
    ("path", "step"),
    [("a/ckpt/global_step1800_hf", 1800), ("outputs/step_5/export/step_20", 20), ("Qwen", 0)],
)
def test_the_step_is_the_checkpoints(path: str, step: int) -> None:
    assert step_of(path) == step


def test_image_records(image_run: Path, files: dict[str, Files]) -> None:
    folder, ours = image_run / "reference", items(image_run)
    records = read_json(files["mmstar"].paths[0])
    lines = (folder / "intermediate_generations_MMStar_step7.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"original_sample": record, "generated_captions": [c["text"] for c in r["captions"]]}
        for record, r in zip(records, ours, strict=True)
    ]
    details = read_json(folder / "Prism_MMStar_step_details_7_final.json")
    for row, record, r in zip(details, records, ours, strict=True):
        sample, rewards, understood, lengths, texts = row
        assert sample == record  # as it stood in the file
        assert rewards == [c["verdict"]["score"] for c in r["captions"]]
        assert understood == [c["verdict"]["said"] for c in r["captions"]]
        assert lengths == [c["answer"]["tokens"] for c in r["captions"]]
        answers = [c["answer"]["text"] for c in r["captions"]]
        assert texts == [c["text"] for c in r["captions"]] + answers
    (line,) = read_json(folder / "Prism_MMStar_step_eval_7_final.json")
    best, mean = (sum(r[k] for r in ours) / len(ours) for k in ("best", "mean"))
    assert line == f"BoN: {best} Mean: {mean}"


def test_video_records(video_run: Path) -> None:
    folder, ours = video_run / "reference", items(video_run)
    samples = [r["sample"] for r in read_json(folder / "intermediate_MMBench-Video_step30.json")]
    assert [s["dimensions"] for s in samples] == ["['Video Topic', 'OCR']", "['Causal Reasoning']"]
    details = read_json(folder / "prism_MMBench-Video_details_step30.json")
    assert details == [
        {
            "sample": sample,
            "captions": [c["text"] for c in r["captions"]],
            "responses": [c["answer"]["text"] for c in r["captions"]],
            "scores": [2 / 3, 2 / 3],
            "bon": 2 / 3,
            "m_acc": 2 / 3,
        }
        for sample, r in zip(samples, ours, strict=True)
    ]
    assert read_json(folder / "prism_MMBench-Video_summary_step30.json") == {
        "benchmark": "MMBench-Video",
        "num_samples": 2,
        "judge_model": "judge/step_7",
        "BoN": 2 / 3,
        "M_Acc": 2 / 3,
    }
    assert part(video_run, "mmbench_video")["mean"] == 2.0  # points, outside of this layout


def test_answers_wait_for_a_judge_elsewhere(files: dict[str, Files], tmp_path: Path) -> None:
    given = ["--reference-layout"]
    with serve(scripted) as server:
        name = "mmbench_video"
        assert run(name, files[name], server.url, tmp_path / "run", *given) == INCOMPLETE
    folder = tmp_path / "run" / "reference"
    found = read_json(folder / "MMBench-Video_inference_step7.json")
    assert [set(row) for row in found] == [{"sample", "captions", "responses"}] * 2
    assert not (folder / "prism_MMBench-Video_summary_step7.json").exists()


@pytest.mark.parametrize("name", ["mmstar", "mmbench_video"])
def test_what_is_written_is_read_as_captions(
    name: str, files: dict[str, Files], image_run: Path, video_run: Path, tmp_path: Path
) -> None:
    """Without a captioner: from the reference's intermediate file, and from a run's own folder."""
    first = image_run if name == "mmstar" else video_run
    (between,) = (first / "reference").glob("intermediate*")
    wanted = [[c["text"] for c in r["captions"]] for r in items(first)]
    with serve(scripted) as server, serve(grades) as judge:
        for number, source in enumerate((between, first)):
            out = tmp_path / str(number)
            more = ["--captions", str(source), "--captioner.endpoint=", "--captioner.temperature=0"]
            assert run(name, files[name], server.url, out, *more, judge=judge.url) == 0
            assert [[c["text"] for c in r["captions"]] for r in items(out)] == wanted
        assert not any("image_url" in json.dumps(r["messages"]) for r in server.requests)
    assert json.loads((out / "summary.json").read_text())["captioner"] == str(first)


@pytest.mark.parametrize("name", ["mmstar", "mmbench_video"])
def test_what_is_written_is_compared(
    name: str, files: dict[str, Files], image_run: Path, video_run: Path, tmp_path: Path
) -> None:
    """Item by item from details, by means from figures alone."""
    first = image_run if name == "mmstar" else video_run
    folder = first / "reference"
    (details,) = (path for path in folder.glob("?rism*") if "details" in path.name)
    (figures,) = (path for path in folder.glob("?rism*") if path != details)
    compare = ["--compare", *map(str, (folder, details, figures)), "--run.seed=3"]
    rule = ["--rule", "caprl"] if name == "mmstar" else []
    with serve(scripted) as server, serve(grades) as judge:
        out = tmp_path / "run"
        assert run(name, files[name], server.url, out, *compare, *rule, judge=judge.url) == 0
    table = (out / "table.md").read_text()
    theirs, ours = part(first, name)["mean"], part(out, name)["mean"]
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    others = [cells[at : at + 6] for at in (7, 13, 19)]
    assert len(cells) == 25
    for other in others:
        assert other[0] == f"{theirs:.1f}" and other[5].startswith(f"{theirs - ours:+.1f}")
    step = 7 if name == "mmstar" else 30
    assert table.count(f"- reference step {step}: rule, reader and judge are not recorded") == 3
    assert table.count("are of means") == 1


def test_published_figures_are_compared(files: dict[str, Files], tmp_path: Path) -> None:
    charts = write_files(tmp_path / "charxiv", "charxiv")
    with serve(scripted) as server:
        more = ["--rule", "caprl", "--compare", "caprl-3b-1800"]
        assert run("charxiv", charts, server.url, tmp_path / "run", *more) == 0
        run("charxiv", charts, server.url, tmp_path / "official", *more[2:])
    table = (tmp_path / "run" / "table.md").read_text()
    ours = part(tmp_path / "run", "charxiv")["mean"]
    assert "| CapRL-3B step 1800 |" in table and "| 32.6 | 54.1 | - | - | - |" in table
    assert f"| {100 * 0.3255 - ours:+.1f} |" in table
    assert "| ChartQAPro | relaxed accuracy (%) | - |" in table
    assert "| not the same rule |" in (tmp_path / "official" / "table.md").read_text()
    assert PUBLISHED["caprl-3b-1800"][1]["chartqapro"] == (0.5476, 0.3996)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("Prism_MMStar_step_eval_1_final.json", "[]", "IndexError"),
        ("Prism_MMStar_step_eval_1_final.json", '["Best: 1"]', "BoN: x Mean: y"),
        ("Prism_MMStar_step_details_1_final.json", "[[{}, [1.0], [], [], []]]", "row 1"),
        ("Prism_Riddles_step_eval_1_final.json", '["BoN: 1 Mean: 1"]', "no benchmark's tag"),
        ("prism_TOMATO_summary_step1.json", '{"BoN": 0.5}', "M_Acc"),
        ("prism_TOMATO_details_step1.json", '[{"sample": 1, "scores": [1]}]', "captions"),
        ("prism_notes.json", "{}", "or its like"),
    ],
)
def test_damaged_files_are_named(name: str, text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        read_reference(str(tmp_path / name), [], [])
    assert name in str(error.value) and problem in str(error.value)


def test_steps_are_not_mixed(tmp_path: Path) -> None:
    for step in (100, 20):
        path = tmp_path / f"Prism_MMStar_step_eval_{step}_final.json"
        path.write_text('["BoN: 1.0 Mean: 0.5"]')
    with pytest.raises(ConfigError, match="holds steps 20, 100"):
        read_reference(str(tmp_path), [], [])


def test_records_are_paired_in_order_and_by_what_is_asked() -> None:
    def item(name: str, record: dict) -> Item:
        return Item(name, (), "?", "A", record=record)

    one = {"image": "a.png", "prompt": "p", "answer": "A"}
    other = {"image": "b.png", "prompt": "q", "answer": "B"}
    ours = [item("1", one), item("2", one), item("3", other)]
    moved = {**other, "image": "/elsewhere/b.png"}
    found = pair([one, moved, one, one, {"prompt": "z"}], ours)
    assert {number: i.id for number, i in found.items()} == {0: "1", 2: "2", 1: "3"}
    assert not pair([{**one, "image": "x"}], ours)  # which of the two it is cannot be known
    assert set(IMAGES) < set(TAGS)
