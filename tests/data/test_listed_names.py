"""File names in a CSV that no file can have: one line that names the CSV."""

import pytest

from vecset.common.errors import InputError
from vecset.data.listed_case import read_split


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "none.npz", "folder/none.npz"])
def test_a_file_that_cannot_be_there(tmp_path, name):
    (tmp_path / "val.csv").write_text(f"case_id,file\na,{name}\n")
    with pytest.raises(InputError, match="val.csv: expected the file of case a, found no file"):
        read_split(tmp_path / "val.csv", tmp_path)
