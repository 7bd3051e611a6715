"""Texts of the preferences page."""

from collections.abc import Mapping
from typing import Any

TEXTS: Mapping[str, Mapping[str, Any]] = {
    "ru": {
        "title": "Сообщения от клиники",
        "kinds": {
            "service": "Напоминания о записи",
            "care": "Вопросы о самочувствии и напоминания о здоровье",
            "advertising": "Предложения клиники",
        },
        "channels": {"email": "по электронной почте", "sms": "по SMS"},
        "wanted": "Вы получаете эти сообщения.",
        "unwanted": "Вы не получаете эти сообщения.",
        "stop": "Больше не присылать",
        "start": "Присылать снова",
        "saved": "Ваш выбор сохранён.",
        "unknown": "Эта ссылка не действует.",
        "unknown_hint": "Она могла устареть. Чтобы изменить настройки, позвоните в клинику.",
        "unreadable": "Ответ не удалось прочитать.",
        "unreadable_hint": "Откройте ссылку ещё раз или позвоните в клинику.",
    },
    "en": {
        "title": "Messages from the clinic",
        "kinds": {
            "service": "Appointment reminders",
            "care": "Follow-ups and health reminders",
            "advertising": "Offers of the clinic",
        },
        "channels": {"email": "by e-mail", "sms": "by SMS"},
        "wanted": "You receive these messages.",
        "unwanted": "You do not receive these messages.",
        "stop": "Stop these messages",
        "start": "Send them again",
        "saved": "Your choice is saved.",
        "unknown": "This link does not work.",
        "unknown_hint": "It may be too old. Please call the clinic to change your settings.",
        "unreadable": "Your answer could not be read.",
        "unreadable_hint": "Please open the link again, or call the clinic.",
    },
}
