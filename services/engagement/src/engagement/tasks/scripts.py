"""What the call centre says, by reason and language: care first, no pressure, nothing to sell.

A script names no diagnosis, no specialty and no service: whoever picks up may not be the patient.
It is read from here, never stored with a task, so that a better wording reaches the tasks that are
already open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from engagement.tasks.domain import Reason

DEFAULT_LANGUAGE = "ru"


@dataclass(frozen=True, slots=True)
class Script:
    """Wording of one call."""

    language: str
    goal: str
    opening: str
    question: str
    closing: str


def script_for(reason: str, *languages: str | None) -> Script:
    """The script of a reason in the first of the languages, by preference, that has one."""
    known = SCRIPTS.get(reason, SCRIPTS[Reason.NO_NEXT_APPOINTMENT])
    wanted = (language.split("-")[0].lower() for language in languages if language)
    return next((known[language] for language in wanted if language in known), known["ru"])


def _ru(goal: str, opening: str, question: str, closing: str) -> Script:
    return Script("ru", goal, opening, question, closing)


def _en(goal: str, opening: str, question: str, closing: str) -> Script:
    return Script("en", goal, opening, question, closing)


_RU_HELLO = "Здравствуйте! Это клиника. Вам удобно сейчас говорить?"
_EN_HELLO = "Hello, this is the clinic. Is this a good moment to talk?"
_RU_BYE = "Спасибо, что нашли время. Берегите себя. Если что-то понадобится, мы на связи."
_EN_BYE = "Thank you for your time. Take care, and call us whenever you need anything."

SCRIPTS: Mapping[str, Mapping[str, Script]] = {
    Reason.NO_NEXT_APPOINTMENT: {
        "ru": _ru(
            "Узнать о самочувствии и помочь выбрать время следующей встречи, если она нужна.",
            _RU_HELLO,
            "Как вы себя чувствуете после визита? Осталось ли что-то, с чем мы можем помочь?",
            _RU_BYE,
        ),
        "en": _en(
            "Learn how the patient feels and help to find the next time, if one is needed.",
            _EN_HELLO,
            "How have you been since your visit? Is there anything left that we can help with?",
            _EN_BYE,
        ),
    },
    Reason.NO_SHOW: {
        "ru": _ru(
            "Убедиться, что всё в порядке, записать причину, предложить другое время без упрёка.",
            _RU_HELLO,
            "Мы вас ждали и хотим убедиться, что всё хорошо. Подобрать другое удобное время?",
            _RU_BYE,
        ),
        "en": _en(
            "Make sure all is well, note the reason, offer another time without blame.",
            _EN_HELLO,
            "We were expecting you and want to be sure you are well. Would another time suit you?",
            _EN_BYE,
        ),
    },
    Reason.CANCELLED: {
        "ru": _ru(
            "Понять, что помешало, и помочь перенести встречу, если пациент этого хочет.",
            _RU_HELLO,
            "Встреча отменена. Всё ли в порядке? Какое время было бы для вас удобным?",
            _RU_BYE,
        ),
        "en": _en(
            "Understand what came up and help to move the meeting if the patient wishes.",
            _EN_HELLO,
            "Your appointment was cancelled. Is everything all right? What time would suit you?",
            _EN_BYE,
        ),
    },
    Reason.UNREACHABLE: {
        "ru": _ru(
            "Найти верный способ связи: проверить карту, спросить при следующем обращении.",
            _RU_HELLO,
            "Подскажите, пожалуйста, как вам удобнее получать сообщения от клиники?",
            _RU_BYE,
        ),
        "en": _en(
            "Find a way of contact that works: check the record, ask at the next occasion.",
            _EN_HELLO,
            "How would you like to hear from the clinic?",
            _EN_BYE,
        ),
    },
    Reason.UNCERTAIN_DELIVERY: {
        "ru": _ru(
            "Передать голосом то, что могло не дойти сообщением.",
            _RU_HELLO,
            "Мы отправляли вам сообщение и не уверены, что оно дошло. Получили ли вы его?",
            _RU_BYE,
        ),
        "en": _en(
            "Say by voice what may not have arrived as a message.",
            _EN_HELLO,
            "We sent you a message and are not sure it arrived. Did you get it?",
            _EN_BYE,
        ),
    },
    Reason.LOW_SCORE: {
        "ru": _ru(
            "Выслушать, поблагодарить за откровенность, записать, что исправить. Не оправдываться.",
            _RU_HELLO,
            "Спасибо за честную оценку. Расскажите, пожалуйста, что нам следует исправить?",
            "Спасибо. Мы разберёмся и расскажем вам, что сделали.",
        ),
        "en": _en(
            "Listen, thank for the frankness, note what to put right. Do not justify.",
            _EN_HELLO,
            "Thank you for your honest answer. Would you tell us what we should put right?",
            "Thank you. We will look into it and tell you what we did.",
        ),
    },
    Reason.REFERRED_OUT: {
        "ru": _ru(
            "Узнать, удалось ли получить помощь там, куда направили; при тревоге позвать врача.",
            _RU_HELLO,
            "Удалось ли вам попасть туда, куда вас направили? Как вы себя чувствуете?",
            _RU_BYE,
        ),
        "en": _en(
            "Learn whether the patient got the care; call a doctor if anything worries you.",
            _EN_HELLO,
            "Were you able to get where we sent you? How are you feeling?",
            _EN_BYE,
        ),
    },
}
