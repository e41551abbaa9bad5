"""What to cite for the methods that an audit used."""

CITATIONS: dict[str, str] = {
    "szegedy2014intriguing": """@inproceedings{szegedy2014intriguing,
  title     = {Intriguing properties of neural networks},
  author    = {Szegedy, Christian and Zaremba, Wojciech and Sutskever, Ilya and Bruna, Joan and
               Erhan, Dumitru and Goodfellow, Ian and Fergus, Rob},
  booktitle = {International Conference on Learning Representations},
  year      = {2014}
}""",
    "tsuzuku2018lipschitz": """@inproceedings{tsuzuku2018lipschitz,
  title     = {Lipschitz-Margin Training: Scalable Certification of Perturbation Invariance for
               Deep Neural Networks},
  author    = {Tsuzuku, Yusuke and Sato, Issei and Sugiyama, Masashi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}""",
    "leino2021globally": """@inproceedings{leino2021globally,
  title     = {Globally-Robust Neural Networks},
  author    = {Leino, Klas and Wang, Zifan and Fredrikson, Matt},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    "fazlyab2019efficient": """@inproceedings{fazlyab2019efficient,
  title     = {Efficient and Accurate Estimation of {Lipschitz} Constants for Deep Neural Networks},
  author    = {Fazlyab, Mahyar and Robey, Alexander and Hassani, Hamed and Morari, Manfred and
               Pappas, George J.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
    "zhang2018efficient": """@inproceedings{zhang2018efficient,
  title     = {Efficient Neural Network Robustness Certification with General Activation Functions},
  author    = {Zhang, Huan and Weng, Tsui-Wei and Chen, Pin-Yu and Hsieh, Cho-Jui and Daniel, Luca},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}""",
    "sedghi2019singular": """@inproceedings{sedghi2019singular,
  title     = {The Singular Values of Convolutional Layers},
  author    = {Sedghi, Hanie and Gupta, Vineet and Long, Philip M.},
  booktitle = {International Conference on Learning Representations},
  year      = {2019}
}""",
    "croce2020minimally": """@inproceedings{croce2020minimally,
  title     = {Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack},
  author    = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}""",
    "croce2020reliable": """@inproceedings{croce2020reliable,
  title     = {Reliable evaluation of adversarial robustness with an ensemble of diverse
               parameter-free attacks},
  author    = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}""",
    "sun2024knowledge": """@inproceedings{sun2024knowledge,
  title     = {Achieving Domain-Independent Certified Robustness via Knowledge Continuity},
  author    = {Sun, Alan and Ma, Chiyu and Ge, Kenneth and Vosoughi, Soroush},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}""",
    "nesterov2004introductory": """@book{nesterov2004introductory,
  title     = {Introductory Lectures on Convex Optimization},
  author    = {Nesterov, Yurii},
  publisher = {Springer},
  year      = {2004}
}""",
    "cohen2021gradient": """@inproceedings{cohen2021gradient,
  title     = {Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability},
  author    = {Cohen, Jeremy M. and Kaur, Simran and Li, Yuanzhi and Kolter, J. Zico and
               Talwalkar, Ameet},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}""",
}
"""BibTeX by key."""


def citations_for(ops: set[str], distances: bool) -> list[dict[str, str]]:
    """Return the entries for the parts that were run, as `key` and `bibtex`.

    Args:
        ops: Operations in the audited graphs.
        distances: Whether inputs have a distance, so that all parts were run.
    """
    bracket = ["szegedy2014intriguing", "fazlyab2019efficient"]
    certificates = ["tsuzuku2018lipschitz", "leino2021globally", "zhang2018efficient"]
    attacks = ["croce2020minimally", "croce2020reliable"]
    descent = ["nesterov2004introductory", "cohen2021gradient"]
    keys = [*bracket, *certificates, *attacks] if distances else []
    if ops & {"conv", "conv_transpose"}:
        keys.append("sedghi2019singular")
    keys += ["sun2024knowledge", *(descent if distances else [])]
    return [{"key": key, "bibtex": CITATIONS[key]} for key in keys]
