"""What the soak concludes from what it sees: a leak must be found, and so must a wait that was not told, or twice."""

import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from tools.soak.ledger import Account, Ledger, Told, Wait, percentile
from tools.soak.logs import Logs
from tools.soak.plan import FAMILIES, Plan
from tools.soak.samples import Process, Sample, Sampler
from tools.soak.verdicts import flatness, told, trend

END = 1_795_387_800.0
MEGABYTES = 400.0


def sample(at, **runner):
    dice = random.Random(at)
    process = Process(memory=MEGABYTES + dice.uniform(-4, 4), files=12, threads=9, cpu=at / 10)
    supervisor = Process(memory=300.0, files=20, threads=2)
    return Sample(
        at, 5000, supervisor, replace(process, **runner), {"Snowflake": 5, "Databricks": 9}, {"Snowflake": 10}
    )


def hour(**change):
    """The samples of an hour; ``change`` gives a field of the triggers' process at a moment."""
    return [sample(at, **{name: value(at) for name, value in change.items()}) for at in range(0, 3600, 10)]


def growing(samples):
    return {one.name for one in flatness(samples, settled=1440) if not one.ok}


def test_noise_is_flat():
    assert growing(hour()) == set()
    assert len(flatness(hour(), settled=1440)) == 7


def test_what_grew_before_it_had_settled_does_not_count():
    assert growing(hour(memory=lambda at: MEGABYTES + min(at, 1400) / 5)) == set()


def test_a_leak_is_found_under_noise():
    """40 MB per hour, as of 2 kB per wait that ends."""

    def leaking(at):
        return MEGABYTES + random.Random(at).uniform(-8, 8) + 40 * at / 3600

    found = {one.name: one for one in flatness(hour(memory=leaking), settled=1440)}
    assert not found["- of it, the triggers' process"].ok
    assert found["- of it, the triggers' process"].per_hour == pytest.approx(40, rel=0.2)
    assert found["- of it, Airflow's supervisor"].ok


@pytest.mark.parametrize(
    ("name", "value", "quantity"),
    [
        ("files", lambda at: 12 + at // 10, "file descriptors beside a log per wait"),
        ("threads", lambda at: 9 + at // 300, "threads"),
    ],
)
def test_descriptors_and_threads_that_pile_up_are_found(name, value, quantity):
    assert growing(hour(**{name: value})) == {quantity}


def test_connections_that_pile_up_are_found():
    samples = [
        replace(one, connections={"Snowflake": 5, "Databricks": 9 + int(one.at // 200)}) for one in hour()
    ]
    assert growing(samples) == {"connections to Databricks"}


def test_connections_that_the_weather_has_closed_may_be_opened_again():
    samples = [
        replace(one, connections={"Snowflake": 4 if 600 < one.at < 2000 else 12, "Databricks": 9})
        for one in hour()
    ]
    assert growing(samples) == {"connections to Snowflake"}
    assert all(one.ok for one in flatness(samples, settled=1440, weather=540))


@pytest.mark.parametrize(
    ("left", "quantity"),
    [
        ({"memory": 150.0}, "memory"),
        ({"files": 300}, "file descriptors"),
        ({"threads": 40}, "threads"),
    ],
)
def test_what_the_weather_leaves_for_good_is_found(left, quantity):
    """It comes before all has settled, and then nothing grows any more."""
    calm, storm = hour(), 540

    def later(one):
        more = {name: getattr(one.runner, name) + value for name, value in left.items()}
        return replace(one, runner=replace(one.runner, **more)) if one.at > storm else one

    found = {one.name for one in flatness(list(map(later, calm)), settled=1440, weather=storm) if not one.ok}
    assert found == {f"- since before the weather: {quantity}"}
    assert all(one.ok for one in flatness(calm, settled=1440, weather=storm))


def test_connections_that_the_weather_leaves_are_found():
    samples = [replace(one, connections={"Snowflake": 5 if one.at <= 540 else 305}) for one in hour()]
    found = {one.name for one in flatness(samples, settled=1440, weather=540) if not one.ok}
    assert found == {"- since before the weather: connections to Snowflake"}


def test_a_few_samples_prove_nothing():
    assert flatness(hour()[-5:], settled=0) == []


def test_trend():
    assert trend([(0, 1.0), (1, 3.0), (2, 5.0)]) == pytest.approx(2.0)


@pytest.fixture
def ledger():
    found = Ledger(calm_from=END + 10)
    for number in range(20):
        found.begin(Wait(str(number), "queries", END + number, fails=number % 10 == 9))
    return found


def tell_all(ledger, *without):
    for key, wait in list(ledger.waiting.items()):
        if key not in without:
            ledger.tell(Told(key, wait.ends + 2, "failed" if wait.fails else "succeeded"))


def bad(ledger, least=10):
    ledger.close(END + 1000, patience=60)
    return [one.text for one in told(ledger.accounts, least) if not one.ok]


def test_all_told(ledger):
    tell_all(ledger)
    assert bad(ledger) == []
    assert ledger.ended == 20


def test_what_ended_in_the_weather_is_told_apart(ledger):
    ledger.tell(Told("1", END + 61, "succeeded"))
    tell_all(ledger)
    assert ledger.as_json()["queries"]["end_to_event_s"] == {
        "p50": 2.0,
        "p99": 2.0,
        "p50_with_the_weather": 2.0,
        "p99_with_the_weather": 60.0,
    }


@pytest.mark.parametrize(
    ("key", "verdicts"), [("19", ["waits told too late, though the weather was over: 1"]), ("1", [])]
)
def test_one_that_is_told_too_late_is_as_bad_as_lost_but_in_the_weather(ledger, key, verdicts):
    wait = ledger.waiting[key]
    ledger.tell(Told(key, wait.ends + 1801, "failed" if wait.fails else "succeeded"))
    tell_all(ledger)
    assert bad(ledger) == verdicts


def test_one_that_was_not_told_is_lost(ledger):
    tell_all(ledger, "3")
    assert ledger.unheard(END + 1000) == {"queries": 1}
    assert bad(ledger) == ["waits lost: 1"]


def test_one_whose_work_has_only_just_ended_is_not_lost(ledger):
    tell_all(ledger, "3")
    ledger.close(END + 3 + 59, patience=60)
    assert all(one.ok for one in told(ledger.accounts, 10))
    assert ledger.accounts["queries"].waiting == 1


def test_one_whose_trigger_begins_its_work_has_longer(ledger):
    tell_all(ledger)
    ledger.begin(Wait("free", "queries", END, fails=False, grace=600))
    ledger.close(END + 659, patience=60)
    assert ledger.accounts["queries"].lost == 0
    ledger.close(END + 661, patience=60)
    assert ledger.accounts["queries"].lost == 1


def test_one_that_was_told_twice(ledger):
    tell_all(ledger)
    assert ledger.tell(Told("4", END + 9, "succeeded")) is None
    assert bad(ledger) == ["waits told twice: 1"]


@pytest.mark.parametrize(
    ("events", "what"), [(2, "waits told twice: 1"), (0, "waits told, without an event in their logs: 1")]
)
def test_the_log_counts_as_well(ledger, events, what):
    wait = ledger.waiting["5"]
    tell_all(ledger)
    ledger.logged(wait, events)
    assert bad(ledger) == [what]


@pytest.mark.parametrize(
    ("key", "late", "outcome", "reason"),
    [
        ("1", 2, "failed", "failed, not succeeded"),
        ("9", 2, "succeeded", "succeeded, not failed"),
        ("1", 2, "lost: no answer", "lost: no answer, not succeeded"),
        ("1", -5, "succeeded", "before the end"),
    ],
)
def test_one_that_was_told_wrong(ledger, key, late, outcome, reason):
    ledger.tell(Told(key, ledger.waiting[key].ends + late, outcome))
    tell_all(ledger)
    assert bad(ledger) == [f"waits told wrong: 1 ({reason})"]


def test_a_soak_in_which_nothing_ends_proves_nothing():
    assert [one.ok for one in told({"queries": Account(begun=100, waiting=100)}, 10)] == [
        False,
        True,
        True,
        True,
        True,
        True,
        False,
    ]


def test_percentile():
    assert percentile([], 0.5) is None
    assert percentile([float(number) for number in range(100)], 0.99) == 99.0


@pytest.mark.parametrize("waits", [60, 300, 5000])
def test_the_families_together_are_all_waits(waits):
    numbers = Plan(waits, 60.0).numbers
    assert sum(numbers.values()) == waits
    assert numbers.keys() == FAMILIES.keys()
    assert min(numbers.values()) >= 1


def test_as_many_end_in_the_first_minute_as_in_any_other():
    plan, dice = Plan(5000, 3600.0), random.Random(0)
    shortest, longest = plan.life
    ends = Counter(int(plan.rest(dice) // 60) for _ in range(20_000))
    per_minute = 20_000 / ((shortest + longest) / 2) * 60
    assert ends[0] == pytest.approx(per_minute, rel=0.15)
    assert ends[1] == pytest.approx(per_minute, rel=0.15)


def test_the_weather_is_over_when_it_has_to_be_flat():
    for minutes in (0.5, 8, 60):
        plan = Plan(5000, 60.0 * minutes)
        assert sum(plan.storm) < plan.expiry < plan.pause[0]
        assert sum(plan.pause) < plan.settled


def test_events_are_counted_wherever_airflow_has_put_the_line(tmp_path, ledger, monkeypatch):
    key = "08d3cbed-4860-4205-90f1-0d5072b01d3d"
    waits = [Wait(one, "files", END, fails=False, folder=one) for one in (key, "own", "none")]
    (tmp_path / "own").mkdir()
    log = tmp_path / "own" / "attempt=1.log.trigger.1.log"
    log.write_text('{"event":"trigger starting"}\n{"event":"Trigger fired event"}\n')
    output = tmp_path / "triggerer.log"
    output.write_text(
        f"[info     ] Trigger fired event  [x] result='y' ti_id={key} try_number=1\n[error    ] Broken\n"
        "[info     ] Triggerer's async thread was blocked for 1.33 seconds, exceeding it\n"
        "[error    ] XCom not found\n[info"
    )
    logs = Logs(tmp_path, output)
    assert logs.has_begun(waits[1])
    for wait in waits:
        logs.told(wait)
    logs.count(ledger)
    assert "files" not in ledger.accounts, "a line may still come"
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    logs.count(ledger)
    assert (ledger.accounts["files"].unlogged, ledger.accounts["files"].twice) == (1, 0)
    assert not log.exists()
    assert logs.errors == ["[error    ] Broken"]
    assert logs.stalls == [1.33]


HOLDING = """
import pathlib, sys
logs = pathlib.Path(sys.argv[1])
held = [open(logs / "waits.log", "w"), open(logs / "ended.log", "w"), open(logs.parent / "other", "w")]
(logs / "ended.log").unlink()
print("held", flush=True)
input()
"""


def descriptors(logs, code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        return Sampler(process.pid, {}, logs).processes()[0].files


def test_the_logs_of_waits_that_go_on_are_no_descriptors_that_count(tmp_path):
    """The log of a wait that has ended is removed, and must not be held."""
    (logs := tmp_path / "logs").mkdir()
    bare = descriptors(logs, "print('held', flush=True); input()")
    assert descriptors(logs, HOLDING, str(logs)) == bare + 2


def test_a_process_that_has_gone_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        sampler = Sampler(process.pid, {"Snowflake": 1}, tmp_path)
        main, children = sampler.processes()
        assert main.memory > 1
        assert main.files >= 3
        assert children == Process()
        assert sampler.connections() == {"Snowflake": 0}
        process.kill()
    assert sampler.processes() == (Process(), Process())
