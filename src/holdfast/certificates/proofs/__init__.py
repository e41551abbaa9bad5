"""What certificate files carry so that an independent checker can prove them."""
