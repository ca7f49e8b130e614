"""Faults put into the code on purpose, one at a time: the tests that are named with each must notice.

    python benchmarks/mutants.py [--only runs/] [--minutes 30] [--out mutants.json]

Works on a copy of the repository. Tests run in processes that are forked from one in which the large libraries are
imported already. The first seven are those that an earlier set of tests let live.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 150
"""For the tests of one mutant; what takes longer counts as noticed."""


@dataclass(frozen=True)
class Mutant:
    """A replacement of text in a file of the package, and arguments of pytest that should then fail."""

    file: str
    old: str
    new: str
    tests: str

    @property
    def name(self) -> str:
        """File and the text that is replaced, in short."""
        return f"{self.file}: {' '.join(self.old.split())[:60]} -> {' '.join(self.new.split())[:40] or 'nothing'}"

    def apply(self, root: Path) -> None:
        """Change the file below a copy of the repository.

        Raises:
            ValueError: the text is not there exactly once.
        """
        path = root / "vlm_ablate" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text is there {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new))


LEASE, STORAGE = "tests/test_lease.py", "tests/safety/test_storage.py"
EXECUTE, STAGES, LOG = "tests/runs/test_execute.py", "tests/training/test_stages.py", "tests/runs/test_log.py"
PUBLISH, CAMPAIGN = "tests/tracking/test_publish.py", "tests/launch/test_campaign.py"
LOCAL = "tests/launch/test_local.py"
KEYS, SEALED, PREDICTIONS = "tests/runs/test_keys.py", "tests/test_sealed.py", "tests/evaluation/test_predictions.py"

MUTANTS = [
    # the seven
    Mutant("runs/execute.py", "Lease.acquire(folder.root, heartbeat", 'Lease.acquire(folder.root / "own", heartbeat',
           f"{EXECUTE} -k machine_that_died"),
    Mutant("training/fit.py", "weights_only=True", "weights_only=False", f"{STAGES} -k run_code"),
    Mutant("launch/local.py", "os.killpg(self.process.pid, number)", "os.kill(self.process.pid, number)",
           f"{LOCAL} -k children"),
    Mutant("launch/local.py", "        # Children (data loaders) that outlived it would keep its locks and its GPU.\n"
           "        self.signal(signal.SIGKILL)\n", "", f"{LOCAL} -k children"),
    Mutant("runs/publishing.py", "with suppress(LeaseHeld), Lease.acquire(root, wait=False):", "if True:",
           f"{PUBLISH} -k left_to_it"),
    Mutant("storage.py", "                if durable:\n                    os.fsync(file.fileno())\n", "",
           f"{STORAGE} -k on_the_disk"),
    Mutant("tracking/publish.py", "        note.points = len(view.points)\n", "",
           f"{PUBLISH} -k 'publishing_again or not_sent_again'"),
    Mutant("runs/train.py", "        files.clear()\n", "", f"{EXECUTE} -k ctrl_c_while"),
    # lease
    Mutant("lease.py", "    if (highest, free) != (token, False):", "    if False:", f"{LEASE} -k slow_taker"),
    Mutant("lease.py", "        if owner is not None and owner.dead:\n            return True\n", "",
           f"{LEASE} -k dead_process"),
    Mutant("lease.py", "_started(self.pid) != (self.started, True)", "not _started(self.pid)[1]",
           f"{LEASE} -k used_again"),
    Mutant("lease.py", "        elif self._seen[1] != changed:\n            self._until = _now() + ttl\n", "",
           f"{LEASE} -k 'who_does_not_wait or renewed'"),
    Mutant("lease.py", "min(ttl, max(0.0, ttl - (now - changed / 1e9)))", "max(0.0, ttl - (now - changed / 1e9))",
           f"{LEASE} -k clock_that_is_ahead"),
    Mutant("lease.py", "        if self._lost is not None:\n            raise LeaseLost(",
           "        if False:\n            raise LeaseLost(", f"{LEASE} -k wakes_up"),
    Mutant("lease.py", "and found.id == self.owner.id", "", f"{LEASE} -k was_moved"),
    Mutant("lease.py", "            os.rename(self._file, self._file.with_name(f\"{self._file.name}-free\"))",
           "            os.unlink(self._file)", f"{LEASE} -k take_turns"),
    Mutant("lease.py", "    except FileExistsError:\n        if (found := _read(file)) is None or found.id != owner.id:"
           "  # a network may repeat what was done already\n            return False\n",
           "    except FileExistsError:\n        pass\n", f"{LEASE} -k 'of_two or take_turns or another_made'"),
    Mutant("lease.py", "        guard(folder, lease.check)\n", "", f"{LEASE} -k 'wakes_up or only_what'"),
    Mutant("storage.py", "                check_writable(path)\n                os.replace(partial, path)  # while",
           "                os.replace(partial, path)  # while", f"{LEASE} -k 'wakes_up or only_what'"),
    Mutant("storage.py",
           "        except BaseException:\n            partial.unlink(missing_ok=True)\n            raise\n"
           "\n\n@contextmanager\ndef atomic_path", "        except BaseException:\n            raise\n\n\n"
           "@contextmanager\ndef atomic_path", "tests/test_home.py -k that_fails"),
    Mutant("storage.py", "os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)",
           "os.O_WRONLY | os.O_CREAT, mode)",
           f"{STORAGE} -k unfinished_file"),
    Mutant("storage.py", "        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        partial",
           "        partial",
           f"{STORAGE} -k that_lives"),
    # runs
    Mutant("runs/folder.py", "            if find().root == folder.root:\n", "            if True:\n",
           "tests/runs/test_leased.py"),
    Mutant("runs/train.py", "            if outcome is None:\n                self._train(", "            if True:\n"
           "                self._train(", f"{KEYS} -k while_this_one_waited"),
    Mutant("runs/stage_model.py", "            check_weights(stage)\n", "", f"{KEYS} -k damaged_weights"),
    Mutant("runs/train.py", "        log.rewind(first + files.step())\n", "", f"{EXECUTE} -k logged_once"),
    Mutant("runs/stage_model.py", "    return Seen(**ended[\"seen\"])", "    return Seen()",
           f"{EXECUTE} -k 'recorded or history'"),
    Mutant("runs/train.py", '"weights_sha256": file_sha256(folder.weights),', '"weights_sha256": "",',
           f"{KEYS} -k damaged_weights"),
    Mutant("runs/log.py", "if entry.step <= step]", "if entry.step < step]", f"{LOG} -k going_on"),
    Mutant("runs/log.py", "    return [*entries, last] if last else entries", "    return entries",
           f"{LOG} -k cut_anywhere"),
    Mutant("runs/log.py", "os.fsync(self._file.fileno())", "pass", f"{LOG} -k on_the_disk"),
    Mutant("runs/log.py", "            write_atomically(self.path, \"\".join(_line(entry) for entry in kept))",
           "            self.path.write_text(\"\".join(_line(entry) for entry in kept))", f"{LOG} -k had_the_log"),
    Mutant("runs/log.py", "row: Any = unsealed(json.loads(line))", "row: Any = json.loads(line)",
           f"{SEALED} -k of_a_log"),
    Mutant("runs/folder.py", "            return unsealed(body)\n", "            return body\n",
           f"{SEALED} -k of_a_record"),
    Mutant("evaluation/predictions.py", "return unsealed(row) if isinstance(row, dict) else None",
           "return row if isinstance(row, dict) else None", f"{SEALED} -k of_a_log"),
    Mutant("evaluation/predictions.py", "                break  # what follows is asked again",
           "                continue",
           PREDICTIONS),
    Mutant("runs/outcome.py", "with suppress(LeaseHeld), Lease.acquire(run_folder(home, spec.id).root, wait=False):",
           "if True:", f"{EXECUTE} -k does_not_say"),
    Mutant("runs/execute.py",
           "            self._lease.check()\n            self._notice(str(lost))\n            return False",
           "            raise", f"{EXECUTE} -k took_over"),
    Mutant("runs/execute.py", "            if self.interruption.early:\n                return schema.STOPPED",
           "            if False:\n                return schema.STOPPED", f"{EXECUTE} -k file_stops"),
    Mutant("runs/execute.py", "        if found.done:\n", "        if False:\n", f"{EXECUTE} -k not_run_again"),
    Mutant("runs/live.py", "            for file in (self._folder.live, self._folder.stop):",
           "            for file in ():",
           f"{EXECUTE} -k file_stops"),
    Mutant("runs/publishing.py", "    check_writable(run_folder(home, spec.id).file)\n", "", f"{PUBLISH} -k has_lost"),
    Mutant("runs/publishing.py", "        self._closing.set()\n        self._thread.join(CLOSE_SECONDS)",
           "        self._closing.set()", f"{PUBLISH} -k returns_during"),
    Mutant("runs/view.py", "        points += [\n", "        points[1:1] = [\n", f"{PUBLISH} -k stage_tells"),
    Mutant("runs/view.py", "        return schema.RUNNING if status in schema.DONE else status",
           "        return status",
           f"{KEYS} -k rerun"),
    Mutant("runs/keys.py", '        "split": entry.split,\n', "", KEYS + " -k decides_scores"),
    Mutant("runs/keys.py", '        "seeds": seeds.model_dump(mode="json"),\n', "", KEYS + " -k decides_training"),
    Mutant("runs/fingerprints.py", "digest and theirs.get(what) and theirs[what] != digest", "False",
           "tests/runs/test_fingerprints.py"),
    # tracking
    Mutant("tracking/publish.py", "    if note.store != sqlite_identity(tracking_uri):\n        note = _Note(",
           "    if False:\n        note = _Note(", f"{PUBLISH} -k has_lost_is"),
    Mutant("tracking/publish.py", "    finally:\n        path.parent", "    else:\n        path.parent",
           f"{PUBLISH} -k goes_away"),
    Mutant("tracking/publish.py", "        found = runs_tagged(client, experiment, own)\n", "        found = []\n",
           f"{PUBLISH} -k 'cannot_be_read or lost'"),
    Mutant("tracking/publish.py", "status=\"RUNNING\", name=view.name)  # an", "name=view.name)  # an",
           f"{PUBLISH} -k failed_and_then"),
    Mutant("tracking/mlflow_run.py", "            if len(part) == 1:\n", "            if True:\n",
           f"{PUBLISH} -k refuses"),
    Mutant("tracking/names.py", "    if len(safe) <= LENGTH:\n        return safe\n", "    return safe\n",
           "tests/tracking/test_names.py"),
    # launch
    Mutant("launch/local.py", "                worker.signal(signal.SIGKILL)\n            else:",
           "                pass\n            else:",
           f"{LOCAL} -k not_stop_in_time"),
    Mutant("launch/local.py", "            worker.signal(signal.SIGUSR1)", "            pass",
           f"{LOCAL} -k stopped_early"),
    Mutant("launch/local.py", "            future.cancel()\n        try:", "            pass\n        try:",
           f"{LOCAL} -k ctrl_c"),
    Mutant("launch/worker.py", "                os.kill(os.getpid(), signal.SIGTERM)", "                pass",
           f"{LOCAL} -k parent_is_killed"),
    Mutant("launch/worker.py", "        traceback.print_exc()\n", "", f"{LOCAL} -k one_clear_message"),
    Mutant("launch/campaign.py", "            if present is not None:\n                return present\n", "",
           f"{CAMPAIGN} -k asked_for_twice"),
    Mutant("launch/campaign.py", "        if found.done:\n", "        if False:\n", f"{CAMPAIGN} -k handed_back"),
    Mutant("launch/campaign.py", "        if any(self._training.get(key, spec.id) != spec.id for key in missing):",
           "        if False:", f"{CAMPAIGN} -k 'share or same_run'"),
    Mutant("launch/campaign.py", "                self._training.pop(event.key, None)\n", "                pass\n",
           f"{CAMPAIGN} -k share"),
    Mutant("launch/campaign.py", "        self._publish()  # runs whose", "        pass  # runs whose",
           f"{LOCAL} -k worker_that_dies"),
    Mutant("launch/campaign.py", "                    if self._broken is not None:", "                    if False:",
           f"{LOCAL} -k hearer_that_fails"),
    # training
    Mutant("training/checkpoint.py", "            if (step, _checksum(file)) == _named(file):", "            if True:",
           f"{STAGES} -k damaged"),
    Mutant("training/checkpoint.py", "*self.folder.glob(_WRITING), *self.folder", "*self.folder",
           f"{STAGES} -k killed_writers"),
    Mutant("training/checkpoint.py", "KEPT = 2", "KEPT = 1", f"{STAGES} -k 'two_checkpoints or damaged'"),
    Mutant("training/callbacks.py", "            self._saving()\n", "", f"{STAGES} -k not_repeated"),
    Mutant("training/callbacks.py", "        torch.manual_seed(derived_seed(", "        (derived_seed(",
           f"{STAGES} -k continued"),
    Mutant("training/callbacks.py", '"window": window}', '"window": []}', f"{STAGES} -k continued"),
    Mutant("training/callbacks.py", "if not math.isfinite(loss) or not", "if not", f"{STAGES} -k not_finite"),
    Mutant("training/callbacks.py", "self.smoothed > self.ratio * self.first", "False", f"{STAGES} -k exploding"),
    Mutant("training/callbacks.py", "                part.training = mode", "                pass",
           f"{EXECUTE} -k 'history or equal_to'"),
    Mutant("training/interruption.py", "        if not self._deferring or again:", "        if not self._deferring:",
           "tests/training/test_interruption.py"),
    Mutant("training/interruption.py", "        if not self._deferring or again:", "        if True:",
           f"{EXECUTE} -k sigterm_while"),
    Mutant("training/module.py", "        loss_sum, count = totals[0], totals[1].clamp(min=1)",
           "        loss_sum, count = totals[0], totals[1] * 0 + 1", "tests/training/test_gradient.py"),
    Mutant("training/module.py", "        schedule.step()\n", "",
           f"{STAGES} tests/training/test_gradient.py tests/training/test_optim.py"),
    Mutant("training/optim.py", "\"weight_decay\": stage.weight_decay if decayed else 0.0",
           "\"weight_decay\": stage.weight_decay",
           "tests/training/test_optim.py"),
    Mutant("training/interruption.py",
           "again, self.requested, self.early = self.requested and not self.early, True, False",
           "again, self.requested = self.requested and not self.early, True", "tests/training/test_interruption.py"),
]  # fmt: skip


def copy_of_repository(folder: Path) -> Path:
    """What tests need, in a folder."""
    for name in ("vlm_ablate", "tests", "experiments", "results", "benchmarks", "pyproject.toml", "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
        elif source.exists():
            shutil.copyfile(source, folder / name)
    return folder


def passes(root: Path, tests: str) -> bool:
    """Whether these tests pass in that copy, in a process of their own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(root)
        sys.path[:0] = [str(root), str(root / "tests")]
        os.environ["PYTHONPATH"] = str(root)
        sink = os.open(root / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        import shlex

        import pytest

        os._exit(min(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *shlex.split(tests)])), 100))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2):
                print(f"    pytest ended with {code}: {tests}", flush=True)
            return code not in (1, 2)  # 2: interrupted, as by a signal that nobody held
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> int:
    """Try each mutant; print the share that was noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done: dict[str, bool] = json.loads(args.out.read_text()) if args.out.exists() else {}
    chosen = [mutant for mutant in MUTANTS if args.only in mutant.name]
    begun = time.monotonic()
    for module in ("torch", "transformers", "peft", "lightning.pytorch", "mlflow", "pytest", "hypothesis", "PIL.Image"):
        __import__(module)
    for number, mutant in enumerate(chosen, 1):
        if mutant.name in done:
            continue
        if time.monotonic() - begun > 60 * args.minutes:
            print("time is up", flush=True)
            break
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            root = copy_of_repository(Path(folder))
            mutant.apply(root)
            done[mutant.name] = not passes(root, mutant.tests)
        verdict = "noticed" if done[mutant.name] else "LIVES  "
        print(f"{number:3}/{len(chosen)} {verdict} {time.monotonic() - started:5.1f} s  {mutant.name}", flush=True)
        args.out.write_text(json.dumps(done, indent=1) + "\n")
    noticed = sum(done.values())
    print(f"{noticed} of {len(done)} mutants noticed ({noticed / max(1, len(done)):.0%})")
    return 0 if noticed == len(done) else 1


if __name__ == "__main__":
    sys.exit(main())
