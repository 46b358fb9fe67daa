"""A stack for demos, tests and rehearsals: see ``docs/emulator.md``. Nothing else imports it."""

from airflow_provider_azstack.emulator.fleet import EmulatedVm
from airflow_provider_azstack.emulator.handles import DiskSpec, EmulatedDisk
from airflow_provider_azstack.emulator.leftovers import Leftover
from airflow_provider_azstack.emulator.stack import Emulator

__all__ = ["DiskSpec", "EmulatedDisk", "EmulatedVm", "Emulator", "Leftover"]
