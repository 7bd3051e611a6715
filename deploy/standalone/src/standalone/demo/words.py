"""What codes are called in the summary, for somebody who has never seen one."""

from collections.abc import Mapping

TASKS: Mapping[str, str] = {
    "no_next_appointment": "no next appointment",
    "no_show": "missed an appointment",
    "cancelled": "cancelled an appointment",
    "unreachable": "could not be reached",
    "uncertain_delivery": "a message may be lost",
    "low_score": "was unhappy with a visit",
    "referred_out": "referred to another clinic",
    "no_channel": "no way to write to them",
}
AXES: Mapping[str, str] = {
    "life_situation": "who they are",
    "treatment_state": "where their treatment stands",
}
SEGMENTS: Mapping[str, str] = {
    "corporate": "through their employer",
    "elderly_chronic": "elderly or chronically ill",
    "family": "families",
    "emergency_consult": "came with a complaint",
    "young_professional": "young professionals",
    "other": "others",
    "lost": "lost",
    "referred": "referred elsewhere",
    "not_started": "treatment not started",
    "healthy": "healthy",
    "treated": "treated",
    "in_care": "in care",
}
JOURNEYS: Mapping[str, str] = {"follow-up": "Follow-ups sent", "reminder": "Reminders sent"}


def words_for(names: Mapping[str, str], code: str) -> str:
    """Gives the words for a code; a code that is not known yet reads as it is.

    Args:
        names: Of its kind.
        code: Of the platform.

    >>> words_for(TASKS, "no_show"), words_for(TASKS, "brand_new")
    ('missed an appointment', 'brand new')
    """
    return names.get(code, code.replace("_", " "))
