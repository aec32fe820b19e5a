//! The model of leadership: every state that three members can reach, checked with the product's own decisions.
