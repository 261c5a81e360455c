"""The toy domain: clips with known attributes, and the small base that was pretrained on their source look."""
