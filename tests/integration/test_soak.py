"""A few kills of the soak script, which kills many (tests/soak.py)."""

import soak


def test_killed_runs_come_to_the_same_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "DEFENSES", "undefended,madry")
    monkeypatch.setattr(soak, "ATTACKS", "pgd")
    monkeypatch.setattr(soak, "SIZE", ["--n-train", "100", "--n-test", "10"])
    tally = soak.soak(3, "digits", 0, tmp_path, soak.Forked)
    assert tally.kills == 3
    assert tally.resumes >= 1
    assert tally.recomputed == 0
    assert tally.differences == []
