"""Makes amounts that have no more decimal places than their currency.

The document cannot ask for that: `multipleOf` does not work with doubles. A made-up number that
is not whole therefore loses its fraction; amounts that are text keep theirs, which their pattern
describes.
"""

import schemathesis


@schemathesis.hook
def before_call(context, case, **kwargs):
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("amount"), float) and body["amount"] > 0:
        body["amount"] = max(1, int(body["amount"]))
