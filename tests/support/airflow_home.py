"""Gives this process an Airflow of its own. Import it before anything that imports Airflow."""

import atexit
import os
import shutil
import sys
import tempfile

if "airflow" in sys.modules:
    raise RuntimeError("import support.airflow_home before airflow")

sys.dont_write_bytecode = True  # what is written anew within a second looks as it did before
HOME = tempfile.mkdtemp(prefix="azstack-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT="0",  # its alarm clock would take the place of pytest's
    AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
)
