"""
The page: one HTML file that needs nothing else.

Owns the filling of the template; what is told and where it is drawn was decided before.
Invariant: every text of the repository is escaped, and the page asks nobody for anything: its own
policy forbids it to.
"""

from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_provider_azstack import __version__
from airflow_provider_azstack.console.pictures import charts
from airflow_provider_azstack.console.pictures.facts import Facts
from airflow_provider_azstack.console.pictures.words import clock, moment
from airflow_provider_azstack.speed import amount, counted, duration

# By the state of a cell: what stands in it, so that its colour is not the only sign.
MARKS = {"verified": "✓", "point": "●", "flagged": "!", "failed": "✗", "gone": "○", "none": "·"}
LEGEND = {
    "verified": "restore point, verified",
    "point": "restore point",
    "flagged": "restore point, looks suspicious",
    "failed": "failed, or could not be protected",
    "gone": "restore point, forgotten since",
    "none": "no restore point",
}


def page(facts: Facts, zone_name: str) -> str:
    """
    Return the page.

    :param zone_name: what the clock of the page's moments is called.
    """
    zone = facts.made_at.tzinfo
    if zone is None:
        raise ValueError("facts are of a time zone")
    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"amount": amount, "duration": duration, "counted": counted}
    environment.globals |= {"clock": lambda at: clock(at, zone)}
    environment.globals |= {"moment": lambda at: moment(at, zone)}
    return environment.get_template("page.html").render(
        facts=facts,
        zone_name=zone_name,
        offset=f"{facts.made_at:%z}",
        version=__version__,
        marks=MARKS,
        legend=LEGEND,
        months=charts.months(facts.dates),
        jobs=charts.job_bars(facts.jobs, zone),
        growth=charts.growth(facts.grown, zone),
        gantt=charts.gantt(facts.timeline, zone) if facts.timeline else None,
        usage=None if facts.usage is None else charts.usage_bars(facts.usage),
    )
