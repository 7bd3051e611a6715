"""Made-up people: plausible names, addresses under example.org, phones of a range nobody is served by."""

from random import Random

from standalone.demo.happenings import Person

_WOMEN = (
    "Анна",
    "Мария",
    "Елена",
    "Ольга",
    "Наталья",
    "Ирина",
    "Светлана",
    "Татьяна",
    "Юлия",
    "Дарья",
)
_MEN = (
    "Иван",
    "Алексей",
    "Дмитрий",
    "Сергей",
    "Андрей",
    "Михаил",
    "Павел",
    "Николай",
    "Олег",
    "Егор",
)
_FAMILIES = (
    "Лесной", "Родниковый", "Полевой", "Горный", "Луговой", "Озёрный", "Степной", "Морской", "Садовый",
    "Зимний", "Летний", "Вешний", "Ясный", "Тихий", "Светлый", "Дальний",
)  # fmt: skip
_GIVEN_EN = ("Alex", "Sam", "Kim", "Robin", "Jo", "Pat", "Chris", "Lee", "Max", "Terry")
_FAMILIES_EN = ("Brook", "Field", "Hill", "Marsh", "Ford", "Wood", "Stone", "Lake", "Reed", "Vale")


def make_person(
    identifier: str,
    number: int,
    random: Random,
    *,
    language: str,
    sex: str,
    birth_on: str,
    family_id: str | None = None,
    payer: str = "self",
    is_chronic: bool = False,
    mail_share: float = 0.7,
) -> Person:
    """Gives a person with a contact of their own.

    Args:
        identifier: Of the clinic.
        number: Unique; makes the address.
        random: Decides the rest.
        language: `ru` or `en`.
        sex: `female` or `male`.
        birth_on: Date.
        family_id: Whose family.
        payer: Who pays.
        is_chronic: Under observation.
        mail_share: Share of people with an e-mail address; the others have a phone.
    """
    if language == "ru":
        given = random.choice(_WOMEN if sex == "female" else _MEN)
        family = random.choice(_FAMILIES)
        if sex == "female":
            family = family[:-2] + "ая"
    else:
        given, family = random.choice(_GIVEN_EN), random.choice(_FAMILIES_EN)
    has_mail = random.random() < mail_share
    return Person(
        id=identifier,
        family=family,
        given=given,
        language=language,
        sex=sex,
        birth_on=birth_on,
        email=f"patient.{number}@example.org" if has_mail else None,
        # +7 000 is no code of any network.
        phone=None if has_mail else f"+7000{number:010d}",
        family_id=family_id,
        payer=payer,
        is_chronic=is_chronic,
    )
