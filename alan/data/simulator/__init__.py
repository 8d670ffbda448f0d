"""Echo archives out of nothing: anatomy, a beating cycle, ultrasound physics, the official layouts."""
