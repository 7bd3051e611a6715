"""Words of the survey's page that no clinic changes, in the languages it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass

from feedback.surveys.domain import COMMENT_MAX, AnswerFault


@dataclass(frozen=True, slots=True)
class PageTexts:
    """The page's words in one language."""

    language_name: str
    intro: str
    csat_labels: tuple[str, str, str, str, str]
    nps_low: str
    nps_high: str
    comment_hint: str
    send: str
    faults: Mapping[AnswerFault, str]
    thanks_title: str
    thanks_text: str
    stands_title: str
    stands_text: str
    more: str
    gone_title: str
    gone_text: str
    unknown_title: str
    unknown_text: str
    try_again: str


TEXTS: Mapping[str, PageTexts] = {
    "ru": PageTexts(
        language_name="Русский",
        intro="Два вопроса, меньше минуты. Отвечайте, на что хотите.",
        csat_labels=("Очень плохо", "Плохо", "Нормально", "Хорошо", "Отлично"),
        nps_low="0: ни за что",
        nps_high="10: обязательно",
        comment_hint=f"До {COMMENT_MAX} знаков. Ответ увидят только сотрудники клиники.",
        send="Отправить",
        faults={
            AnswerFault.EMPTY: "Ответьте, пожалуйста, хотя бы на один вопрос.",
            AnswerFault.OUT_OF_SCALE: "Выберите, пожалуйста, один из предложенных ответов.",
            AnswerFault.COMMENT_TOO_LONG: f"Сократите комментарий до {COMMENT_MAX} знаков.",
        },
        thanks_title="Спасибо!",
        thanks_text="Мы получили ваш ответ и прочитаем его. Берегите себя.",
        stands_title="Ваш первый ответ остаётся в силе",
        stands_text="Мы уже сохранили его и прочитаем. Если что-то изменилось, позвоните нам.",
        more="Ваш ответ сохранён. Здесь можно ответить на вопросы, которые вы пропустили.",
        gone_title="Эта ссылка больше не действует",
        gone_text="Срок ответа закончился. Если вы хотите что-то рассказать, позвоните нам.",
        unknown_title="Мы пока не знаем этой ссылки",
        unknown_text=(
            "Если сообщение пришло только что, подождите минуту и откройте ссылку ещё раз. "
            "Если не поможет, проверьте, что адрес скопирован целиком."
        ),
        try_again="Попробовать ещё раз",
    ),
    "en": PageTexts(
        language_name="English",
        intro="Two questions, less than a minute. Answer what you like.",
        csat_labels=("Very poor", "Poor", "Fair", "Good", "Excellent"),
        nps_low="0: not at all",
        nps_high="10: certainly",
        comment_hint=f"Up to {COMMENT_MAX} characters. Only the clinic's staff will read it.",
        send="Send",
        faults={
            AnswerFault.EMPTY: "Please answer at least one of the questions.",
            AnswerFault.OUT_OF_SCALE: "Please choose one of the answers offered.",
            AnswerFault.COMMENT_TOO_LONG: f"Please use at most {COMMENT_MAX} characters.",
        },
        thanks_title="Thank you!",
        thanks_text="We have your answer and will read it. Take care.",
        stands_title="Your first answer stands",
        stands_text="We have kept it and will read it. If something has changed, please call us.",
        more="Your answer is kept. Here you can answer the questions that you left out.",
        gone_title="This link is no longer active",
        gone_text="The time to answer has ended. If there is something to tell us, please call us.",
        unknown_title="We do not know this link yet",
        unknown_text=(
            "If the message has only just arrived, wait a minute and open the link again. "
            "If that does not help, check that the whole address was copied."
        ),
        try_again="Try again",
    ),
}
