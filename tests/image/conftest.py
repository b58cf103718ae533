"""The image that `make image` has built."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from astronomer.runtime.versions import Manifest
from tools.image.__main__ import tag
from tools.image.container import Container
from tools.image.engine import Build, ImageError, found

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def release():
    return Manifest.read(ROOT / "runtime" / "versions.json").newest()


@pytest.fixture(scope="session")
def engine():
    return found(ROOT / ".image")


@pytest.fixture(scope="session")
def images(engine, release):
    """The configuration of each variant: target -> Docker's words."""
    try:
        return {target: engine.config(tag(release, target)) for target in ("base", "onbuild")}
    except ImageError as error:
        pytest.fail(f"There is no image to try: run `make image` first. {error}", pytrace=False)


@contextmanager
def built(engine, *what, **more):
    """What the build of an image has said; nothing of it stays."""
    build = Build(*what, **more)
    try:
        yield engine.build(build)
    finally:
        engine.remove(build.tag)


@pytest.fixture
def container(engine, release, images):
    started = Container(engine, tag(release, "onbuild"))
    yield started
    started.remove()
