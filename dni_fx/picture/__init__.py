"""A plan as a picture: stages as lanes, modules as boxes, boundaries as the joints between the lanes.

Modules are folded by hierarchy until they are few enough to look at, so a graph of thousands of nodes fits.
"""

from dni_fx.picture.write import check_picture as check_picture
from dni_fx.picture.write import write_picture as write_picture
