"""Makes amounts that have no more decimal places than their currency.

The document cannot ask for that: `multipleOf` does not work with doubles. A made-up number that
is not whole therefore loses its fraction; amounts that are text keep theirs, which their pattern
describes.
"""

import schemathesis


def make_whole(order):
    if isinstance(order, dict) and isinstance(order.get("amount"), float) and order["amount"] > 0:
        order["amount"] = max(1, int(order["amount"]))


@schemathesis.hook
def before_call(context, case, **kwargs):
    make_whole(case.body)
    orders = case.body.get("orders") if isinstance(case.body, dict) else None
    for order in orders if isinstance(orders, list) else []:
        make_whole(order)
