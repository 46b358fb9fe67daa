"""``python -m airflow_provider_azstack``: the console script, where scripts are not installed."""

import sys

from airflow_provider_azstack.console import main

if __name__ == "__main__":
    sys.exit(main())
