"""What the page behind a link says, in the languages that patients read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from booking.domain.appointment import Status
from booking.domain.link import Answer

FALLBACK_LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class Texts:
    """All words of the page in one language."""

    weekdays: tuple[str, ...]
    months: tuple[str, ...]
    moment: str
    question: Mapping[Answer, str]
    button: Mapping[Answer, str]
    done: Mapping[Answer, str]
    done_before: Mapping[Answer, str]
    reason_label: str
    reasons: Mapping[str, str]
    moved: str
    moved_meanwhile: str
    look_again: str
    to_come: Mapping[Status, str]
    cancelled: str
    begun: str
    over: str
    expired: str
    unknown: str
    unknown_hint: str
    try_again: str
    call_us: str


RUSSIAN = Texts(
    weekdays=(
        *("понедельник", "вторник", "среда", "четверг", "пятница", "суббота"),
        "воскресенье",
    ),
    months=(
        *("января", "февраля", "марта", "апреля", "мая", "июня", "июля", "августа"),
        *("сентября", "октября", "ноября", "декабря"),
    ),
    moment="{weekday}, {day} {month}, {time}",
    question={
        Answer.CONFIRM: "Вы придёте на приём?",
        Answer.CANCEL: "Отменить запись?",
        Answer.MOVE: "Перенести запись на другое время?",
    },
    button={
        Answer.CONFIRM: "Да, приду",
        Answer.CANCEL: "Отменить запись",
        Answer.MOVE: "Да, перенести",
    },
    done={
        Answer.CONFIRM: "Спасибо, запись подтверждена. Ждём вас.",
        Answer.CANCEL: "Запись отменена. Спасибо, что предупредили.",
        Answer.MOVE: "Клиника увидит, что вы хотите перенести запись. Пока она остаётся в силе.",
    },
    done_before={
        Answer.CONFIRM: "Вы уже ответили по этой ссылке: запись подтверждена.",
        Answer.CANCEL: "Вы уже ответили по этой ссылке: запись отменена.",
        Answer.MOVE: "Вы уже ответили по этой ссылке: клиника видит, что вы хотите перенести запись.",
    },
    reason_label="Почему? (можно не отвечать)",
    reasons={
        "illness": "Заболел(а)",
        "no_time": "Не успеваю",
        "price": "Дорого",
        "went_elsewhere": "Иду в другое место",
        "feeling_better": "Стало лучше",
    },
    moved="Время записи изменилось. Вот новое:",
    moved_meanwhile=(
        "Время записи тем временем изменилось, и ваш ответ мы пока не записали. "
        "Посмотрите, пожалуйста, на новое время и ответьте ещё раз."
    ),
    look_again="Посмотрите, пожалуйста, на время записи и ответьте ещё раз.",
    to_come={
        Status.BOOKED: "Запись в силе, но пока не подтверждена.",
        Status.CONFIRMED: "Запись в силе и подтверждена.",
    },
    cancelled="Эта запись отменена.",
    begun="Этот приём уже начался или прошёл.",
    over="Эту запись уже нельзя изменить по ссылке.",
    expired="Срок действия ссылки истёк.",
    unknown="Мы пока не знаем этой ссылки.",
    unknown_hint=(
        "Если сообщение пришло только что, подождите минуту и откройте ссылку ещё раз. "
        "Если не поможет, проверьте, что адрес скопирован целиком."
    ),
    try_again="Попробовать ещё раз",
    call_us="Если что-то не так, позвоните в клинику.",
)
ENGLISH = Texts(
    weekdays=(
        *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
        "Sunday",
    ),
    months=(
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December"),
    ),
    moment="{weekday} {day} {month}, {time}",
    question={
        Answer.CONFIRM: "Are you coming to your appointment?",
        Answer.CANCEL: "Cancel your appointment?",
        Answer.MOVE: "Move your appointment to another time?",
    },
    button={
        Answer.CONFIRM: "Yes, I am coming",
        Answer.CANCEL: "Cancel the appointment",
        Answer.MOVE: "Yes, move it",
    },
    done={
        Answer.CONFIRM: "Thank you, your appointment is confirmed. See you then.",
        Answer.CANCEL: "Your appointment is cancelled. Thank you for telling us.",
        Answer.MOVE: "The clinic will see that you want another time. Until then the appointment stands.",
    },
    done_before={
        Answer.CONFIRM: "You have answered by this link: the appointment was confirmed.",
        Answer.CANCEL: "You have answered by this link: the appointment was cancelled.",
        Answer.MOVE: "You have answered by this link: the clinic sees that you want another time.",
    },
    reason_label="Why? (you need not answer)",
    reasons={
        "illness": "I am ill",
        "no_time": "I cannot make it",
        "price": "It costs too much",
        "went_elsewhere": "I am going elsewhere",
        "feeling_better": "I feel better",
    },
    moved="The time of your appointment has changed. The new time:",
    moved_meanwhile=(
        "The time has changed meanwhile, and nothing was done with your answer. "
        "Please look at the new time and answer once more."
    ),
    look_again="Please look at the time of your appointment and answer once more.",
    to_come={
        Status.BOOKED: "Your appointment stands, but is not confirmed yet.",
        Status.CONFIRMED: "Your appointment stands and is confirmed.",
    },
    cancelled="This appointment is cancelled.",
    begun="This appointment has begun or is over.",
    over="This appointment cannot be changed by the link any more.",
    expired="This link has expired.",
    unknown="We do not know this link yet.",
    unknown_hint=(
        "If the message has only just arrived, wait a minute and open the link again. "
        "If that does not help, check that the whole address was copied."
    ),
    try_again="Try again",
    call_us="If something is wrong, please call the clinic.",
)
TEXTS: Mapping[str, Texts] = {"ru": RUSSIAN, "en": ENGLISH}


def language_of(tag: str | None) -> str:
    """The language to write in for a BCP 47 tag.

    >>> language_of("ru-RU"), language_of("de"), language_of(None)
    ('ru', 'en', 'en')
    """
    primary = (tag or FALLBACK_LANGUAGE).partition("-")[0].lower()
    return primary if primary in TEXTS else FALLBACK_LANGUAGE


def moment(texts: Texts, at: datetime, time_zones: Sequence[str]) -> str:
    """A time as people say it.

    Args:
        texts: Words of the language.
        at: The time.
        time_zones: IANA zones of the reader, the best first; one that does not exist is passed over
            (a clinic system may have reported it), and without any the time says that it is UTC.

    >>> from datetime import UTC
    >>> half_past_three = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
    >>> moment(RUSSIAN, half_past_three, ["Europe/Moscow"])
    'четверг, 15 января, 15:30'
    >>> moment(ENGLISH, half_past_three, ["Mars/Olympus", "Europe/Moscow"])
    'Thursday 15 January, 15:30'
    >>> moment(ENGLISH, half_past_three, [])
    'Thursday 15 January, 12:30 UTC'
    """
    zone = next(filter(None, map(_zone, time_zones)), None)
    local = at.astimezone(zone or UTC)
    return texts.moment.format(
        weekday=texts.weekdays[local.weekday()],
        day=local.day,
        month=texts.months[local.month - 1],
        time=f"{local:%H:%M}" if zone else f"{local:%H:%M} UTC",
    )


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
