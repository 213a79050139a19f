"""Files that are whole or not there, and folders of work in progress that outlive nobody."""

from fxquant.files.cache import cache_folder
from fxquant.files.json_file import STANDARD_OUTPUT, json_report, write_json
from fxquant.files.lock import one_at_a_time
from fxquant.files.places import new_folder, refuse_folder, refuse_unwritable
from fxquant.files.scratch import remove_abandoned, scratch_folder
from fxquant.files.whole import duplicate, write_atomically

__all__ = [
    "STANDARD_OUTPUT",
    "cache_folder",
    "duplicate",
    "json_report",
    "new_folder",
    "one_at_a_time",
    "refuse_folder",
    "refuse_unwritable",
    "remove_abandoned",
    "scratch_folder",
    "write_atomically",
    "write_json",
]
