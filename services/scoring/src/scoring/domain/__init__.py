"""Pure rules over plain facts: who a patient is, how likely they are lost, what a key figure means.

`assessment` puts a patient's verdict together from `segments`, `rfm` and `churn`; `figures` holds the
key figures' definitions and intervals. Every rule takes `now` in the clinic's time zone: ages, days
and midnights are local.
"""
