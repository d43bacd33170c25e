"""A fixed passage of varied text and code, so that passes can be timed on tokens as they come up in use.

Experts of a mixture are chosen by what the text is: a curve timed on random or repeated ids is another model's curve.
Not covered: timing (engine/calibrate.py).
"""

from __future__ import annotations

import numpy as np

from edgespec.backends.base import Model
from edgespec.types import Ids

PASSAGE = """\
The ferry left the harbour at ten past six, with eleven cars, two lorries of onions and a school class that had been
promised dolphins. "There will be no dolphins," said the mate, "but there is soup." By half past seven the wind had
turned to the north-east and the soup was gone.

Dear Ms Okafor, thank you for your letter of 14 March. We have looked at the bill again: the meter was read on the 2nd,
not on the 12th, so you paid 38.60 too much. The amount will be on your account within five working days.

def moving_average(values: list[float], width: int) -> list[float]:
    if width < 1:
        raise ValueError("width must be at least 1")
    total, result = 0.0, []
    for i, value in enumerate(values):
        total += value
        if i >= width:
            total -= values[i - width]
        result.append(total / min(i + 1, width))
    return result

To make the dough, rub 120 g of cold butter into 250 g of flour, add a pinch of salt and just enough water to bind it.
Rest it for an hour. Meanwhile slice four apples thinly, toss them in lemon juice, sugar and cinnamon, and heat the
oven to 190 degrees. Bake until the edges are brown, which takes about 40 minutes.

Q: Why is the sky dark at night, if there are stars in every direction?
A: Because the universe had a beginning. Light from beyond a certain distance has not had the time to reach us, and
what has come from very far is stretched so much that our eyes no longer see it.

SELECT c.name, COUNT(*) AS orders, SUM(o.total) AS spent
FROM customers AS c JOIN orders AS o ON o.customer_id = c.id
WHERE o.placed_at >= '2024-01-01' AND o.status <> 'cancelled'
GROUP BY c.name HAVING SUM(o.total) > 500 ORDER BY spent DESC LIMIT 20;

1. Switch the router off and wait for thirty seconds.
2. Hold the reset button with a paper clip until the second light blinks.
3. Open http://192.168.1.1 in a browser; the password is printed on the label.

In 1854 a doctor in London marked every death from cholera on a street map. The dots crowded round a single pump. He had
its handle taken off, and although the epidemic was already ending, the map changed how people thought about disease.

#include <stdio.h>
int main(void) {
    unsigned n = 27, steps = 0;
    while (n != 1) { n = n % 2 ? 3 * n + 1 : n / 2; ++steps; }
    printf("%u steps\\n", steps);
    return 0;
}

Suppose that p is the largest prime. Multiply all primes up to p and add one: the result leaves a remainder of one when
divided by any of them, so it has a prime factor that is not among them. Hence there is no largest prime.

The committee met for two hours and agreed on three things: the roof cannot wait, the organ can, and nobody wants to be
treasurer. Mrs Lindqvist, who had said nothing until then, asked whether the bats had been consulted.

{"id": 4711, "tags": ["garden", "sale"], "price": {"amount": 24.9, "currency": "EUR"}, "stock": null}

He ran. Past the bakery, past the shuttered bank, over the bridge where the river smelled of rain; and when he looked
back, at last, there was only the dog, trotting after him with his left shoe in its mouth.
"""


def passage_ids(model: Model) -> Ids:
    """The passage in a model's tokens, in order, int32."""
    return np.array(model.tokenize(PASSAGE.encode(), special=False), np.int32)
