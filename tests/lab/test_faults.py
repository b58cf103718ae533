import pytest
from hypothesis import given
from hypothesis import strategies as st

from astronomer.lab.faults import Effect, Faults


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def picks(faults: Faults, count: int, method: str = "GET", path: str = "/a/b") -> list[str]:
    return [str(effect) if (effect := faults.pick(method, path)) else "-" for _ in range(count)]


def test_a_fault_hits_so_many_matching_requests_and_no_other():
    faults = Faults()
    fault = faults.status(429, "^/a/", method="post", times=2, retry_after=3)
    assert picks(faults, 2) == ["-", "-"]
    assert picks(faults, 2, "POST", "/x/a/") == ["-", "-"]
    assert picks(faults, 3, "POST") == ["status 429", "status 429", "-"]
    assert fault.hits == 2
    assert faults.active == []


def test_a_fault_ends_when_its_time_is_over():
    clock = Clock()
    faults = Faults(clock)
    faults.reset(seconds=10)
    clock.now = 9.9
    assert picks(faults, 1) == ["reset"]
    clock.now = 10.0
    assert picks(faults, 1) == ["-"]


def test_clear_ends_all_and_the_newest_script_wins():
    faults = Faults()
    faults.status(503)
    faults.status(500, times=1)
    assert picks(faults, 3) == ["status 500", "status 503", "status 503"]
    faults.clear()
    assert picks(faults, 1) == ["-"]


@given(seed=st.integers(), rate=st.floats(0, 1), path=st.sampled_from(["/a", "/b"]))
def test_a_storm_repeats_for_the_same_seed_and_hits_about_its_rate(seed, rate, path):
    weather = []
    for _ in range(2):
        faults = Faults()
        faults.storm(60, rate=rate, seed=seed)
        weather.append(picks(faults, 200, path=path))
    assert weather[0] == weather[1]
    assert set(weather[0]) <= {"status 429", "status 503", "reset", "-"}
    assert abs(sum(one != "-" for one in weather[0]) / 200 - rate) < 0.25


def test_a_storm_asks_for_a_pause_only_with_429():
    faults = Faults()
    faults.storm(60, rate=1.0)
    effects = {faults.pick("GET", "/") for _ in range(50)}
    assert effects == {Effect("status", 429, 1.0), Effect("status", 503), Effect("reset")}


@pytest.mark.parametrize(
    ("spec", "message"),
    [({"kind": "fire"}, "unknown kind"), ({"kind": "reset", "wind": 1}, "unknown argument")],
)
def test_a_wrong_script_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        Faults().script(spec)


def test_scripts_are_json():
    faults = Faults()
    faults.script({"kind": "slow", "delay": 2, "path": "/q", "times": 1})
    faults.script({"storm": 5, "seed": 3, "rate": 0.5})
    storm, slow = faults.active
    assert slow.effects == (Effect("slow", delay=2),)
    assert (storm.seed, storm.rate, len(storm.effects)) == (3, 0.5, 3)
