"""What other programs call the arrays of the nets, as data: one module per program."""

from jaxcnn.weights.names import caffe, keras, matconvnet, slim, tensorflow_ports, torchvision
from jaxcnn.weights.naming import Form

FORMS: tuple[Form, ...] = (
    *torchvision.forms(),
    *caffe.forms(),
    *keras.forms(),
    *matconvnet.forms(),
    *tensorflow_ports.forms(),
    *slim.forms(),
)
