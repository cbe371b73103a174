"""A run's curves as one SVG picture, for the dashboard: it shows pictures, and no pages."""

from xml.sax.saxutils import escape

from kd.training.history import EpochMetrics

WIDTH, HEIGHT = 360, 200  # of a panel, in pixels
MARGIN = 44
TITLES = {
    "objective": "validation {metric}",
    "temperature": "temperature",
    "alpha": "alpha",
    "lr": "learning rate",
}


def curves(history: list[EpochMetrics], metric: str) -> str:
    """Draw validation metric and schedules against the epoch, in two rows of two panels."""
    panels = [
        _panel(title.format(metric=metric), [getattr(one, name) for one in history], index)
        for index, (name, title) in enumerate(TITLES.items())
    ]
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT}" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#333"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>'
    )


def _panel(title: str, values: list[float], index: int) -> str:
    """Draw one curve, with the smallest and largest value on the axis."""
    low, high = min(values), max(values)
    across = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    down = (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    points = [
        (MARGIN + across * epoch, HEIGHT - MARGIN - down * (value - low))
        for epoch, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    labels = [(high, MARGIN)] if low == high else [(high, MARGIN), (low, HEIGHT - MARGIN)]
    axis = "".join(
        f'<text x="{MARGIN - 6}" y="{place + 4}" text-anchor="end">{value:.4g}</text>'
        for value, place in labels
    )
    return (
        f'<g transform="translate({index % 2 * WIDTH} {index // 2 * HEIGHT})">'
        f'<text x="{MARGIN}" y="24" font-size="13" font-weight="600">{escape(title)}</text>{axis}'
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" '
        f'stroke="#bbb"/><polyline points="{line}" fill="none" stroke="#0072b2" '
        f'stroke-width="2"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">'
        f"epoch {len(values)}</text></g>"
    )
