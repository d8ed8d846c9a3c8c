"""Pictures in any form -> batches -> an engine -> Detections, and what is measured of them."""
