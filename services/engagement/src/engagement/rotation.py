"""What a rotation of the key ring has to bring under the active key: every encrypted column.

Booking tells each contact block again after a rotation; what is kept here does not wait for that.
"""

from engagement.messages.content import contact_context, draft_context
from engagement.messages.tables import message
from engagement.projections.tables import patient
from revisit_chassis.reencrypt import EncryptedColumn

ENCRYPTED = (
    EncryptedColumn(patient, "contact_ciphertext", contact_context),
    # Unfinished business only: what has ended keeps no draft.
    EncryptedColumn(message, "draft", draft_context),
)
