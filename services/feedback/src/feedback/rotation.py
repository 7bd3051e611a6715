"""What a rotation of the key ring has to bring under the active key: every encrypted column."""

from functools import partial

import sqlalchemy as sa

from feedback.complaints.tables import complaint
from feedback.reviews.tables import review
from feedback.sealing import context_of
from feedback.surveys.tables import survey_response
from revisit_chassis.reencrypt import IDEMPOTENT_ANSWERS, EncryptedColumn
from revisit_events.rejected import REFUSED_BODIES


def _text(table: sa.Table, name: str) -> EncryptedColumn:
    return EncryptedColumn(table, name, partial(context_of, field=name))


ENCRYPTED = (
    _text(review, "text"),
    _text(review, "author"),
    _text(review, "url"),
    _text(complaint, "text"),
    _text(complaint, "resolution_text"),
    _text(survey_response, "comment"),
    REFUSED_BODIES,
    IDEMPOTENT_ANSWERS,
)
