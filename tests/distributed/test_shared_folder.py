"""An output folder that some processes do not see is refused in all of them; test_nodes.py has whole commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import fork

from glmkit.distributed import shared_folder
from glmkit.distributed.together import together
from glmkit.errors import UserError


@pytest.mark.parametrize("shared", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_a_folder_that_the_second_process_does_not_see(tmp_path: Path, shared: bool) -> None:
    def check(rank: int) -> int:
        shared_folder.SECONDS = 0.5
        folder = tmp_path / ("disk" if shared else f"disk-{rank}")
        try:
            with together(torch.device("cpu")) as group:
                shared_folder.check_shared(folder, group)
        except UserError as error:
            print(error)
            return 2
        return 0

    codes, said = fork(check, tmp_path)
    assert codes == ([0, 0] if shared else [2, 2]), said
    both = "".join(said)
    assert both.count("the processes do not share the folder") == (0 if shared else 1)
    assert "rank 1 on " in both or shared
    assert not list(tmp_path.glob("disk*/.*"))
