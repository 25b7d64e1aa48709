"""What other programs call the arrays of the nets, as data: one module per program."""

from jaxcnn.weights.naming import Form

FORMS: tuple[Form, ...] = ()
