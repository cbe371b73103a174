"""What the search of each arm took of its budget, in words."""

from reports.read.data import StudyData
from reports.read.trials import ArmData
from reports.wording import counted, recipes_begun, trainings


def amount(data: StudyData, arm: ArmData) -> str:
    """Return what an arm's search took, in the unit of `--trials`."""
    spent = data.spent(arm)
    return f"{spent / data.unit:,.4g}" if data.by_promotion else str(spent)


def budget(data: StudyData, arm: ArmData) -> str:
    """Return what an arm's search took: 20 trials, 20 trainings' worth of epochs"""
    spent = data.spent(arm)
    return trainings(spent / data.unit) if data.by_promotion else counted(spent, "trial")


def searched(data: StudyData, arm: ArmData) -> str:
    """Return what an arm's search took, and how far its recipes came where that differs.

    20 trainings' worth of epochs: 52 recipes begun, 9 to the end
    """
    if not data.by_promotion:
        return budget(data, arm)
    return f"{budget(data, arm)}: {recipes_begun(arm.recipes, len(arm.ranking))}"
