"""What is read back is what was written, whoever wrote it and however it ended; the store stays below its limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.waiting import wait_for
from vlm_ablate.cli.home import app
from vlm_ablate.home import Home
from vlm_ablate.models.feature_store import FeatureStore, Stored, features_folder, make_room, store_size

LIMIT = 2**30


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def value(number: int, rows: int = 3, row_bytes: int = 40) -> Stored:
    return Stored(np.random.default_rng(number).integers(0, 256, (rows, row_bytes), dtype=np.uint8), number % 4)


def a_store(root: Path, **options) -> FeatureStore:
    return FeatureStore(root, "encoder", limit=options.pop("limit", LIMIT), **options)


def assert_holds(store: FeatureStore, numbers: range) -> None:
    for number, found in zip(numbers, store.read([key(n) for n in numbers]), strict=True):
        assert found is not None and found.kind == number % 4
        assert np.array_equal(found.values, value(number, *found.values.shape).values)


def fill(store: FeatureStore, numbers: range, **shape) -> None:
    for number in numbers:
        store.add([(key(number), value(number, **shape))])


def test_what_one_process_wrote_every_process_reads(tmp_path):
    ours, theirs = a_store(tmp_path), a_store(tmp_path)
    assert theirs.read([key(0)]) == [None]
    fill(ours, range(5))
    fill(theirs, range(3, 9))
    for store in (ours, theirs, a_store(tmp_path)):
        store.add([])  # looks at what is new now, not in half a second
        assert_holds(store, range(9))
    assert (ours.counts.written, theirs.counts.written) == (5, 4)


def test_values_of_any_shape_over_several_packs(tmp_path):
    store = a_store(tmp_path, pack=500)
    shapes = [(1, 4), (7, 12), (2, 300), (30, 40)]
    for number, shape in enumerate(shapes):
        store.add([(key(number), value(number, *shape))])
    assert len(list(tmp_path.glob("*/*.bin"))) == 2
    assert_holds(a_store(tmp_path), range(4))


def test_more_packs_are_read_than_files_may_be_open(tmp_path):
    fill(a_store(tmp_path, pack=100), range(80))
    script = """
        import resource, sys
        from pathlib import Path
        from vlm_ablate.models import feature_store
        feature_store._OPEN = 10
        store = feature_store.FeatureStore(Path(sys.argv[1]), "encoder", limit=2**30, pack=100)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        keys = [number.to_bytes(16, "little") for number in range(80)]
        store.expect(keys)
        assert all(found is not None for _ in range(2) for found in store.read(keys))
        open("/dev/null").close()
    """
    assert len(list((tmp_path / "encoder").glob("*.bin"))) >= 80 // 2
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True)


@pytest.mark.parametrize("suffix", [".idx", ".bin"])
@pytest.mark.parametrize("lost", [1, 30, 44, 60, 130])
def test_a_torn_end_is_left_out(tmp_path, suffix, lost):
    fill(a_store(tmp_path), range(6))
    (file,) = tmp_path.glob(f"*/*{suffix}")
    os.truncate(file, file.stat().st_size - lost)
    reader = a_store(tmp_path)
    found = [store is not None for store in reader.read([key(n) for n in range(6)])]
    whole = sum(found)
    assert found == sorted(found, reverse=True) and 2 <= whole <= 5
    assert_holds(reader, range(whole))
    fill(reader, range(6))
    assert_holds(a_store(tmp_path), range(6))


@pytest.mark.parametrize("place", [0, 100, 300, 719])
def test_a_damaged_value_is_never_read_and_computed_again(tmp_path, place):
    fill(a_store(tmp_path), range(6))
    (file,) = tmp_path.glob("*/*.bin")
    data = bytearray(file.read_bytes())
    data[place] ^= 16
    file.write_bytes(data)
    store, bad = a_store(tmp_path), place // 120
    found = store.read([key(n) for n in range(6)])
    assert [n for n, stored in enumerate(found) if stored is None] == [bad]
    fill(store, range(bad, bad + 1))
    assert_holds(store, range(6))
    assert_holds(a_store(tmp_path), range(6))  # the damaged entry is struck out


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(tmp_path):
    store = a_store(tmp_path, limit=4000, pack=1000)
    fill(store, range(24))
    old = time.time() - 1000
    for age, index in enumerate(sorted(tmp_path.glob("*/*.idx"), key=lambda f: f.stat().st_mtime_ns)):
        os.utime(index, (old + age, old + age))
    reader = a_store(tmp_path, limit=4000, pack=1000)
    assert_holds(reader, range(3))  # the oldest pack is used now
    fill(store, range(24, 60))
    assert store_size(tmp_path).bytes <= 4000 + 1000
    found = [n for n, stored in enumerate(a_store(tmp_path).read([key(n) for n in range(60)])) if stored is not None]
    assert 59 in found and 20 not in found
    assert make_room(tmp_path, 0) > 0
    assert store_size(tmp_path).bytes == 0


def test_the_command_shows_and_clears(tmp_path):
    home = Home(tmp_path)
    fill(a_store(features_folder(home), pack=400), range(6))
    shown = CliRunner().invoke(app, ["features", "--home", str(tmp_path)])
    assert shown.exit_code == 0 and "of 1 encoder in" in shown.output
    assert CliRunner().invoke(app, ["features", "--clear", "--home", str(tmp_path)]).exit_code == 0
    assert store_size(features_folder(home)).bytes == 0


def test_a_removed_pack_is_a_miss_and_its_writer_begins_another(tmp_path):
    store = a_store(tmp_path)
    fill(store, range(3))
    reader = a_store(tmp_path)
    reader.add([])
    make_room(tmp_path, 0)
    assert reader.read([key(1)]) == [None]
    fill(store, range(3, 5))
    assert_holds(a_store(tmp_path), range(3, 5))


def test_a_disk_that_takes_no_more_stops_nothing(tmp_path, monkeypatch, caplog):
    store = a_store(tmp_path)
    monkeypatch.setattr("vlm_ablate.models.feature_store.MINIMUM_FREE", 2**62)
    fill(store, range(3))
    assert store.read([key(0)]) == [None]
    assert caplog.text.count("no more output of encoders is kept") == 1


def test_writers_killed_anywhere_leave_only_whole_values(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.models.test_feature_store import a_store, fill
        store = a_store(Path(sys.argv[1]), pack=200_000)
        print("ready", flush=True)
        fill(store, range(int(sys.argv[2]), 100_000), rows=20, row_bytes=100)
    """)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, env=environment) for first in (0, 50_000)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline()
        own = f"*/*-{writer.pid:x}-*.idx"
        wait_for(lambda own=own: any(index.stat().st_size for index in tmp_path.glob(own)))
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    reader = a_store(tmp_path)
    reader.add([])
    for first in (0, 50_000):
        found = [stored is not None for stored in reader.read([key(n) for n in range(first, first + 20_000)])]
        assert found == sorted(found, reverse=True) and any(found)
        assert_holds(reader, range(first, first + sum(found)))
    assert reader.counts.damaged == 0
