"""Names of new files and folders."""

import pytest

from holdfast.arguments import check_new_name
from holdfast.errors import InvalidInput


@pytest.mark.parametrize("name", ["c.json", "run_1", "A-b.c", "x" * 80])
def test_plain_names_are_taken(tmp_path, name):
    check_new_name(tmp_path / name)


@pytest.mark.parametrize("name", [".x", "-x", "a b", "a;b", "é", "x" * 81, "a\n", "<script>"])
def test_names_that_mean_something_elsewhere_are_refused_unless_they_are_there(tmp_path, name):
    with pytest.raises(InvalidInput, match="wanted a name of 1 to 80 letters"):
        check_new_name(tmp_path / name)
    (tmp_path / name).touch()
    check_new_name(tmp_path / name)
