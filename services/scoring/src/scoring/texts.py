"""Reasons of a churn risk as people read them, in Russian and English."""

_REASONS = {
    "overdue_own_rhythm": ("давно не был по своему обычному ритму", "overdue by their own rhythm"),
    "overdue_service_rhythm": ("пора повторить визит по этой услуге", "overdue for this service"),
    "recent_no_show": ("недавно не пришёл на приём", "missed an appointment lately"),
    "low_score": ("остался недоволен визитом", "was unhappy with a visit"),
    "treatment_not_started": ("не начал лечение после консультации", "did not start treatment"),
    "next_appointment_booked": ("есть следующая запись", "next appointment is booked"),
    "interval_running": (
        "обычный срок до следующего визита ещё идёт",
        "their usual interval is still running",
    ),
}


def reason_text(code: str) -> dict[str, str]:
    """Gives a reason's text by language.

    Args:
        code: Of the domain.
    """
    russian, english = _REASONS.get(code, (code, code))
    return {"ru": russian, "en": english}
