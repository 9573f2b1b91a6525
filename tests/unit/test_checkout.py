import shutil
import subprocess

from paceline.checkout import HERE, own_commit


def repository(folder):
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    (folder / "theirs.txt").write_text("a user's file")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "theirs"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    package = tmp_path / "src" / "paceline"
    package.mkdir(parents=True)
    shutil.copy(HERE / "checkout.py", package)
    theirs = repository(tmp_path)
    assert own_commit(package) == theirs


def test_a_package_installed_inside_another_repository_has_no_commit(tmp_path):
    package = tmp_path / ".venv" / "lib" / "python3" / "site-packages" / "paceline"
    package.mkdir(parents=True)
    repository(tmp_path)
    assert own_commit(package) is None


def test_without_any_repository_there_is_no_commit(tmp_path):
    assert own_commit(tmp_path) is None
