//! Pure: snapshot in, placement or refusal-with-reason out.
