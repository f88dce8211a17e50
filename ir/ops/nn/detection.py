"""nn: selection of boxes in object detection."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir.dims import IntLike, minimum
from plait.ir.op import op
from plait.ir.ops.common import floating, same_dtype, symbol_of
from plait.ir.ops.core.dynamic import Counted
from plait.ir.types import TensorType, Type, i64
from plait.ir.value import Value


@op("nn.non_max_suppression", pure=False)
class NonMaxSuppression(Counted):
    """The boxes that are kept when those which overlap a better one are dropped, for each image and class.

    Boxes go by falling score; one is dropped when its intersection over union with a
    kept box of the image and class exceeds `iou_threshold`.

    Attributes:
        max_output_boxes_per_class: how many are kept at most; 0 keeps none.
        iou_threshold: in 0..1.
        score_threshold: a box takes part when its score exceeds it; None lets all take part.
        center_point_box: boxes are (x, y, width, height) of their centre, else
            (y, x, y, x) of two opposite corners.

    boxes: [N, boxes, 4]; scores: [N, classes, boxes].  Result: i64[count, 3], (image, class,
    box), by image, then class, then falling score.
    """

    boxes: Value
    scores: Value
    _: KW_ONLY
    max_output_boxes_per_class: int
    iou_threshold: float = 0.0
    score_threshold: float | None = None
    center_point_box: bool = False

    def bound_limit(self) -> IntLike:
        images, classes, boxes = self.scores.shaped.shape
        return images * classes * minimum(boxes, self.max_output_boxes_per_class)

    def infer(self) -> tuple[Type, ...]:
        boxes, scores = floating(self, self.boxes, "boxes"), floating(self, self.scores, "scores")
        same_dtype(self, self.boxes, self.scores)
        if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4:
            raise self.error(
                f"boxes are {boxes} and scores {scores}",
                why="they must be [N, boxes, 4] and [N, classes, boxes]",
            )
        if (boxes.shape[0], boxes.shape[1]) != (scores.shape[0], scores.shape[2]):
            raise self.error(
                f"boxes are {boxes} but scores {scores}", why="images and boxes must agree in number"
            )
        if self.max_output_boxes_per_class < 0 or not 0 <= self.iou_threshold <= 1:
            raise self.error(
                f"max_output_boxes_per_class={self.max_output_boxes_per_class} or "
                f"iou_threshold={self.iou_threshold} is out of range",
                why="they are 0 or more, and 0 to 1",
            )
        symbol_of(self, self.count)
        return (TensorType(i64, (self.count, 3)),)


__all__ = ["NonMaxSuppression"]
