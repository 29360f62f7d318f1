"""The benchmarks: targets, tables, files, the page and the command from made-up figures."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import made_up_intel, made_up_nvidia, made_up_pocl

sys.path.insert(0, str(Path(__file__).parents[2]))

from made_up_results import MACHINE, PEAKS, make_results

from benchmarks import __main__ as command
from benchmarks import kept, machine, page, pictures, suite, tables, targets
from benchmarks.results import (
    Peer,
    Results,
    compare_results,
    read_results,
    results_text,
    sum_up_runs,
    write_results,
)
from fmmloopy.measuring.bench import WHOLE
from fmmloopy.measuring.probes import RSQRT


@pytest.fixture
def results() -> Results:
    return make_results()


def verdicts(results: Results, reasons: dict | None = None) -> dict[str, dict[str, targets.Verdict]]:
    """Return verdicts by key of the target and label of the runtime."""
    judged = targets.judge(results, {MACHINE["processor"]: reasons or {}})
    return {row[0].target.key: {v.runtime: v for v in row} for row in judged}


def all_tables(results: Results, reasons: dict | None = None, processor: str = MACHINE["processor"]) -> dict[str, str]:
    return tables.make_tables(results, targets.judge(results, {processor: reasons or {}}))


# -- cases


def test_a_case_belongs_to_a_group_and_every_group_has_cases():
    assert {case.group for case in suite.full_suite()} == set(suite.GROUPS)
    quick = {case.group for case in suite.quick_suite()}
    assert quick == set(suite.GROUPS) - {"first"}  # which generates all code again


def test_cases_are_chosen_by_group_and_number_of_points():
    chosen = suite.choose(suite.full_suite(), ["sizes", "start"], 100_000)
    assert {case.group for case in chosen} == {"sizes", "start"}
    assert max(case.points for case in chosen) == 100_000
    with pytest.raises(ValueError, match="no group 'size' of cases, expected some of operators, evaluate"):
        suite.choose(suite.full_suite(), ["size"])
    with pytest.raises(ValueError, match="no case has 10 points or fewer"):
        suite.choose(suite.full_suite(), most_points=10)


@pytest.mark.parametrize(
    ("device", "label"),
    [
        (made_up_intel(), "Intel"),
        (made_up_pocl("3.1+debian"), "PoCL 3.1"),
        (made_up_pocl("3.0-rc2"), "PoCL 3.0"),
        (made_up_nvidia("A card"), "A card"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_of_runtimes(device, label):
    assert machine.runtime_label(device) == label


# -- targets


def test_the_full_suite_measures_every_target(results):
    missing = [(key, v.runtime) for key, row in verdicts(results).items() for v in row.values() if not v.reached]
    assert missing == []


def test_nothing_measured_is_neither_met_nor_missed():
    nothing = Results(MACHINE, {}, None, "", {"Intel": ""}, PEAKS)
    found = [v for row in verdicts(nothing).values() for v in row.values()]
    assert len(found) == len(targets.TARGETS)
    assert not any(v.is_met or v.is_missed for v in found)


@pytest.mark.parametrize(
    ("key", "value", "met"),
    [
        ("p2p", 1.0, True),  # 2 Gpairs/s, and 2 G/s roots with division
        ("p2p_gradient", 1.0, True),
        ("p2p_single", 1.0, False),
        ("hadamard", 0.8, True),  # 80 of 100 GFLOP/s
        ("m2l", 0.8, True),
        ("particles", 1.0, True),
        ("translations", 0.8, True),
        ("preparation", 0.61, True),  # 0.2 + 0.1 + 0.01 + 0.3 s
        ("sphere", (1.2 / 4.2 + 30 / 98.5) / 0.6, True),  # 1 s at their peaks
        ("cube", (1.2 / 4.2 + 30 / 98.5) / 0.6, False),
        ("outside", 0.02, True),  # 1 - 0.6 - 0.375 - 0.005
        ("small", 0.01, False),
        ("tiny", 0.001, True),
        ("update", 2.4, False),
        ("growth", 0.0, True),
        ("memory", 0.8, True),
        ("first", 0.9, True),
        ("cold", 5.0, True),
        ("pypi", 1.0, True),
    ],
)
def test_what_was_reached(results, key, value, met):
    found = verdicts(results)[key]["PoCL 3.1"]
    assert found.reached.value == pytest.approx(value)
    assert (found.is_met, found.is_missed) == (met, not met)


def test_every_target_is_tried(results):
    tried = {mark.args[1][i][0] for mark in test_what_was_reached.pytestmark for i in range(len(mark.args[1]))}
    assert tried == {target.key for target in targets.TARGETS}


@pytest.mark.parametrize(("seconds", "runtimes"), [(1.01, {"PoCL 3.0"}), (1.34, set())])
def test_the_runtime_from_pypi_has_a_lower_bound(results, seconds, runtimes):
    results.operators[:] = [replace(o, kernels=[seconds]) for o in results.operators]
    assert {v.runtime for v in verdicts(results)["p2p"].values() if v.is_met} == runtimes


def test_a_fast_evaluation_with_a_large_error_is_a_miss(results):
    results.evaluations[:] = [replace(e, error=1.4e-6) for e in results.evaluations]
    assert verdicts(results)["sphere"]["Intel"].is_missed
    assert "missed (error 1.4e-06)**" in all_tables(results)["targets"]


def test_time_between_the_launches_of_a_small_problem_is_a_miss(results):
    start = replace(results.find_evaluations(group="start", points=10_000)[0], runs=[0.0055])
    results.evaluations[:] = [replace(start, outside=0.00322)]
    assert start.evaluate < 0.006
    assert verdicts(results)["small"][start.runtime].is_missed
    assert "missed (3.22 ms outside kernels)**" in all_tables(results)["targets"]


def test_one_lucky_process_or_run_does_not_count(results):
    """Seconds of small problems are medians over processes, seconds outside kernels over runs."""
    start = results.find_evaluations(group="start", runtime="Intel", points=10_000)[0]
    times = (0.016, 0.014, 0.017)
    results.evaluations[:] = [replace(start, runs=[t], outside=0.0005) for t in times]
    assert verdicts(results)["small"]["Intel"].reached.value == pytest.approx(0.016)
    seconds, runs, outside = sum_up_runs({WHOLE: [1.0, 1.1, 1.1], "p2p": [0.98, 0.3, 0.2], "l2p": [0.01, 0.7, 0.8]})
    assert seconds == {"p2p": 0.2, "l2p": 0.01}
    assert outside == pytest.approx(0.1)
    lucky = replace(start, runs=runs, outside=outside)
    assert lucky.evaluate == 1.0
    assert lucky.outside_share == pytest.approx(0.1 / 1.1)


def test_the_slowest_operator_and_order_count(results):
    slow = {("m2p", 6), ("m2l_hadamard", 10), ("l2l", 6)}
    results.operators[:] = [
        replace(o, kernels=[2.0]) if (o.operator, o.order) in slow else o for o in results.operators
    ]
    found = verdicts(results)
    assert found["particles"]["Intel"].reached.value == pytest.approx(0.5)
    assert found["hadamard"]["Intel"].reached.value == pytest.approx(0.4)
    assert found["translations"]["Intel"].reached.value == pytest.approx(0.4)
    # 4 stages of 80 GFLOP in 1 + 1 + 1 + 2 s.
    assert found["m2l"]["Intel"].reached.value == pytest.approx(0.64)
    assert found["m2l"]["Intel"].reached.note == "p = 6: 80%; p = 10: 64%"


def test_growth_counts_only_with_the_largest_problem(results):
    results.evaluations[:] = [e for e in results.evaluations if e.points < 10_000_000]
    assert verdicts(results)["growth"]["Intel"].reached is None


def test_seconds_at_the_peaks_of_the_other_machine(results):
    """P2P is bound by Newton's iteration, 4 against 4.2 G/s; M2L by multiply-adds, 100 against 98.5 GFLOP/s.

    A way to a root that was not measured there, however fast it is here, says nothing of that machine.
    """
    found = results.find_evaluations(group="evaluate", name=suite.FIRST_SPHERE)[0]
    here, there = 1.2e9 / 4e9 + 30e9 / 100e9, 1.2e9 / 4.2e9 + 30e9 / 98.5e9
    assert found.least(PEAKS) == pytest.approx(here)
    assert found.least({"float64": targets.THEIR_PEAKS}) == pytest.approx(there)
    for more in ({}, {RSQRT: 100e9}):
        peaks = replace(PEAKS["float64"], rsqrt_by=PEAKS["float64"].rsqrt_by | more)
        assert targets.at_their_peaks(found, peaks) == pytest.approx(there / here)
    assert "1 s on this machine" in verdicts(results)["sphere"]["Intel"].reached.note


def test_reasons_stand_beside_misses_alone(results):
    reasons = {"cube": {"all": "slow memory", "Intel": "a slow runtime"}, "sphere": {"all": "met, so not shown"}}
    text = all_tables(results, reasons)["misses"]
    assert "(PoCL 3.0, PoCL 3.1): slow memory" in text
    assert "(Intel): a slow runtime" in text
    assert "P2P, f32: × the rate of f64 (PoCL 3.0, PoCL 3.1, Intel): no reason is given yet." in text
    assert "not shown" not in text
    assert "slow memory" not in all_tables(results, reasons, "another processor")["misses"]


def test_the_file_of_reasons_can_be_read(tmp_path):
    targets.read_reasons()
    path = tmp_path / "misses.toml"
    path.write_text('processor = "p"\n')
    with pytest.raises(ValueError, match="processor is 'p', expected tables by processor and target"):
        targets.read_reasons(path)
    path.write_text('["p".p2q]\nall = "?"\n')
    with pytest.raises(ValueError, match="no target 'p2q', expected one of cold, cube"):
        targets.read_reasons(path)
    path.write_text('["p".cube]\nall = 3\n')
    with pytest.raises(ValueError, match="expected a text for each runtime, or for all"):
        targets.read_reasons(path)
    path.write_text("[cube\n")
    with pytest.raises(ValueError, match=r"misses\.toml: Expected"):
        targets.read_reasons(path)


# -- tables, pictures and the page


def test_tables_hold_what_was_measured(results):
    found = all_tables(results)
    assert "| 0.984 s, met | 0.984 s, met | 0.984 s, met |" in found["targets"]
    assert "| **0.984 s, missed** | **0.984 s, missed** | **0.984 s, missed** |" in found["targets"]
    assert "| 1 s on this machine, 60% of the limit; error 6.6e-07 |" in found["details"]
    assert "| P2P, sphere, order 6, float64 | rsqrt | 1 s, 2 Gpairs/s, 50% |" in found["shares"]
    assert "| P2P, sphere, order 6, float64 | 98.0% |" in found["inside"]
    assert "| P2P | 0.6 s, 60%; 2.00 Gpairs/s, 50% of the limit (rsqrt) |" in found["operators"]
    assert "1.00 μs, 5.0e-04" in found["sizes"]
    assert "| Laplace | 3.2e-04 |" in found["errors"]
    assert "3 ×" in found["steps"]
    for name, text in found.items():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert text
        assert len({line.count("|") for line in rows}) <= 1, name


def test_tables_without_anything_say_so():
    found = all_tables(Results(MACHINE, {}, None, "", {"Intel": ""}, PEAKS))
    assert found["sizes"] == found["operators"] == found["peers"] == "Not measured."
    assert found["left_out"] == "Nothing."


def test_a_peer_is_held_against_the_fastest_that_errs_no_more(results):
    results.peers[:] = [Peer("fmm3dpy", "2.1.0", 100_000, "sphere", 1e-4, 6e-5, 2.8, 2.8, 10**9)]
    ours = results.find_evaluations(group="accuracy", digits=4, dtype="float64")[0]
    results.evaluations[:] = [
        ours,
        replace(ours, error=7e-5, runs=[0.01]),  # faster, and not as accurate
        replace(ours, points=200_000, error=1e-9, runs=[0.01]),  # another problem
        replace(ours, error=1e-9, runs=[0.3]),  # more accurate, and slower
    ]
    # 0.1 s and 0.61 s of construction against 2.8 s; of all cores, 0.19 s and 1 s.
    assert tables.peers_table(results).endswith(
        "| 0.71 s (0.1 s evaluate), error 5.0e-05, float64, PoCL 3.0 | 3.94 | 2.35 |"
    )

    # With another one that takes longer to build, for many evaluations.
    results.evaluations.append(replace(ours, construction={"tree": 5.0}, runs=[0.05]))
    assert tables.solutions_table(results).endswith(
        "| 6.0e-05 | 2.8 s, 0.71 s: 3.94 | 28 s, 1.61 s: 17.4 | 2.8e+03 s, 55 s: 50.9 |"
    )
    results.evaluations.clear()
    assert tables.solutions_table(results).endswith("| – | – | – |")


def test_pictures_are_drawn_from_what_is_there(results, tmp_path):
    drawn = pictures.draw_pictures(results, tmp_path)
    assert [path.name for path in drawn] == [f"{name}.png" for name in pictures.PICTURES]
    for path in drawn:
        image = matplotlib.image.imread(path)[..., :3]
        assert image.shape[1] == round(pictures.WIDTH * 150)
        assert len(np.unique(np.rint(255 * image).astype(int) @ (1, 256, 65536))) > 20  # colours
    results.steps.clear()
    results.operators.clear()
    (tmp_path / "few").mkdir()
    assert [path.stem for path in pictures.draw_pictures(results, tmp_path / "few")] == ["work_precision", "sizes"]


def test_the_page_is_filled_in(results, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "performance_of_old.png").write_text("")
    drawn = pictures.draw_pictures(results, tmp_path / "output")
    written = page.write_page(all_tables(results), drawn, tmp_path)
    text = written.read_text()
    assert text.startswith(page.HEAD)
    assert "{{" not in text
    assert "Not measured." not in text
    shown = set(page.PICTURE.findall(text))
    assert {f"images/{name}" for name in shown} == {f"images/{p.name}" for p in (tmp_path / "images").iterdir()}
    assert len(shown) == len(pictures.PICTURES)
    asked = set(page.PLACE.findall(page.TEMPLATE.read_text()))
    assert asked == set(all_tables(results))


def test_the_page_leaves_out_pictures_that_are_not_there():
    template = "# A\n\n![b](images/performance_b.png)\n\n{{ t }}\n\n![c](images/c.png)\n"
    assert page.make_page(template, {"t": "|x|"}, set()) == page.HEAD + "# A\n\n|x|\n\n![c](images/c.png)\n"
    with pytest.raises(ValueError, match="asks for 't', expected one of u"):
        page.make_page(template, {"u": ""}, set())


def test_a_page_of_other_results_or_text_is_stale(results, tmp_path):
    (tmp_path / "output").mkdir()
    written = page.write_page(all_tables(results), pictures.draw_pictures(results, tmp_path / "output"), tmp_path)
    drawn_from = {name: pictures.digest(results) for name in pictures.pictures_of(results)}
    assert page.stale_lines(all_tables(results), drawn_from, tmp_path) == []

    slower = replace(results, peers=[replace(peer, seconds=19.0) for peer in results.peers])
    drawn_from_slower = {name: pictures.digest(slower) for name in pictures.pictures_of(slower)}
    lines = page.stale_lines(all_tables(slower), drawn_from_slower, tmp_path)
    assert any(line.startswith("+") and "| 19 s |" in line for line in lines)
    assert [line for line in lines if ".png" in line] == [
        f"performance_{name}.png was drawn from other results" for name in sorted(pictures.PICTURES)
    ]

    written.write_text(written.read_text().replace("# Performance", "# Performance, edited"))
    lines = page.stale_lines(all_tables(results), drawn_from, tmp_path)
    assert lines[-2:] == ["-# Performance, edited", "+# Performance"]
    written.unlink()
    (tmp_path / "images" / "performance_sizes.png").unlink()
    shutil.copy(tmp_path / "images" / "performance_steps.png", tmp_path / "images" / "performance_of_old.png")
    lines = page.stale_lines(all_tables(results), drawn_from, tmp_path)
    assert "performance_sizes.png was drawn from other results" in lines
    assert lines[-1] == "performance_of_old.png shows nothing of the results"


def test_the_pictures_that_are_drawn_are_known_before(results, tmp_path):
    for some in (results, replace(results, steps=[]), replace(results, operators=[], evaluations=[])):
        drawn = pictures.draw_pictures(some, tmp_path)
        assert [path.name for path in drawn] == pictures.pictures_of(some)


# -- files


def test_the_last_run_on_each_processor_is_kept(results, tmp_path):
    others = [
        replace(results, machine=MACHINE | {"processor": name}, commit=name) for name in ("Zen 3", "Zen 4", "Zen 4")
    ]
    others[2] = replace(others[2], commit="later", date="2026-10-01T09:00")
    for each in (*others, results):
        kept.keep(each, tmp_path)
    assert [each.commit for each in kept.read_kept(tmp_path)] == [results.commit, "Zen 3", "later"]
    assert [other.commit for other in kept.read_elsewhere(results, tmp_path)] == ["Zen 3", "later"]
    kept.keep(replace(others[0], date="2026-11-02T00:00"), tmp_path)
    names = {"zen-3.jsonl", "zen-4.jsonl", "a-processor-2-processors.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert [each.commit for each in kept.read_kept(tmp_path)] == ["Zen 3", results.commit, "later"]
    assert kept.read_kept(tmp_path / "nowhere") == []


def test_targets_on_other_processors_are_shown(results):
    other = replace(results, machine=MACHINE | {"processor": "Zen 4"}, commit="abc")
    reasons = {"Zen 4": {"p2p_single": {"all": "a reason there"}}}
    assert all_tables(results)["elsewhere"] == "None are kept."
    made = tables.make_tables(results, targets.judge(results, reasons), [(other, targets.judge(other, reasons))])
    assert "### Zen 4\n" in made["elsewhere"]
    assert "at commit abc" in made["elsewhere"]
    assert "(PoCL 3.0, PoCL 3.1, Intel): a reason there" in made["elsewhere"]
    assert "a reason there" not in made["misses"]


def test_results_survive_a_file(results, tmp_path):
    path = tmp_path / "results.jsonl"
    write_results(results, path)
    found = read_results(path)
    assert all_tables(found) == all_tables(results)
    assert results_text(found) == path.read_text()


def test_a_file_holds_a_record_a_line_and_no_more_digits_than_mean_something(results, tmp_path):
    peaks = {"float64": replace(PEAKS["float64"], fma=123456789012.3, cache=2097152)}
    results.operators[:] = [replace(results.operators[0], kernels=[0.0123456789, 1.0], inside=2 / 3)]
    write_results(replace(results, peaks=peaks), tmp_path / "results.jsonl")
    head, *lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert head["machine"] == MACHINE
    assert len(lines) == 1 + sum(map(len, (results.evaluations, results.operators, results.steps, results.peers)))
    assert (lines[0]["kind"], lines[0]["fma"], lines[0]["cache"]) == ("Peaks", 123460000000, 2097152)
    (operator,) = (line for line in lines if line["kind"] == "OperatorTime")
    assert (operator["kernels"], operator["inside"]) == ([0.012346, 1.0], 0.66667)
    assert operator["work"] == vars(results.operators[0].work)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no results of the benchmarks: JSONDecodeError"),
        ('{\n "format": 2,\n "machine": {}\n}', "its format is 2 or before, expected 3: run the benchmarks again"),
        ('{"format": 4}', "its format is 4, expected 3: run the benchmarks again"),
        ('{"format": 3}', "holds no results of the benchmarks: TypeError"),
        ("[]", "holds no results of the benchmarks"),
    ],
)
def test_files_that_hold_something_else(tmp_path, text, message):
    (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "results.jsonl")


def test_two_runs_are_compared(results):
    same = compare_results(results, results)
    assert len(same) == len({row[:2] for row in same})
    assert all("no difference: 1.00x" in row[-1] for row in same)
    faster = replace(results, operators=[replace(o, kernels=[s / 3 for s in o.kernels]) for o in results.operators])
    changed = [row for row in compare_results(faster, results) if "3.00x" in row[-1]]
    assert len(changed) == len({(o.runtime, o.operator, o.order, o.dtype, o.gradient) for o in results.operators})
    results.evaluations.clear()
    assert len(compare_results(results, faster)) == len(changed)


# -- the command


def test_reports_from_a_file(results, tmp_path, capsys):
    write_results(results, tmp_path / "old.jsonl")
    out = tmp_path / "out"
    assert (
        command.main(
            ["--from", str(tmp_path / "old.jsonl"), "--compare", str(tmp_path / "old.jsonl"), "--output", str(out)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "no difference: 1.00x" in printed
    assert "45 of 57 targets that were measured are met" in printed
    assert (out / "results.jsonl").read_text() == (tmp_path / "old.jsonl").read_text()
    assert (out / "tables.md").read_text() in printed
    assert len(list(out.glob("*.png"))) == len(pictures.PICTURES)


def test_a_part_of_a_run_does_not_become_the_page(results, tmp_path, capsys):
    for part in ("quick", "part"):
        write_results(replace(results, suite=part), tmp_path / "old.jsonl")
        words = ["--from", str(tmp_path / "old.jsonl"), "--write-docs", "--output", str(tmp_path / "out")]
        assert command.main(words) == command.BAD_INPUT
        assert f"old.jsonl holds a {part} run, expected a full one for --write-docs" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_failed_case_is_exit_status_1(results, tmp_path):
    write_results(replace(results, failed=["Intel, evaluate: it broke"]), tmp_path / "old.jsonl")
    assert command.main(["--from", str(tmp_path / "old.jsonl"), "--output", str(tmp_path)]) == command.FAILED
    assert "- Intel, evaluate: it broke" in (tmp_path / "tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "nowhere.jsonl"], "nowhere.jsonl cannot be read: No such file"),
        (["--from", "a.jsonl", "--quick"], "argument --from: it measures nothing, so leave out --quick"),
        (["--quick", "--write-docs"], "argument --write-docs: the page needs all cases of a full run"),
        (["--only", "peers", "--write-docs"], "argument --write-docs: the page needs all cases of a full run"),
        (["--only", "everything"], "there is no group 'everything' of cases"),
        (
            ["--most-points", "1.5"],
            "argument --most-points: '1.5', expected a whole number from 1 to 2^31, such as 1e6",
        ),
        (["--most-points", "many"], "argument --most-points: 'many', expected a whole number"),
        (["--device", "abacus"], "no device matches 'abacus'"),
        (["--check-docs"], "argument --refresh-docs, --check-docs: use them without other arguments"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_status_2(arguments, message, capsys, tmp_path):
    try:
        status = command.main([*arguments, "--output", str(tmp_path / "out")])
    except SystemExit as error:
        status = error.code
    printed = capsys.readouterr()
    assert status == command.BAD_INPUT
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
