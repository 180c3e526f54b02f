//! The leader's one loop: desired against observed, level-triggered, on wake and on a timer.
