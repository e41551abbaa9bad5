"""Floor of certify."""
