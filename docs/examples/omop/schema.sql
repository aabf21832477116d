-- The tables of the OMOP common data model, version 5.4, that the example reads, with their
-- columns and indexes. https://ohdsi.github.io/CommonDataModel/cdm54.html

CREATE TABLE cdm_source (
  cdm_source_name varchar(255) NOT NULL,
  cdm_source_abbreviation varchar(25) NOT NULL,
  cdm_holder varchar(255) NOT NULL,
  source_description text,
  source_documentation_reference varchar(255),
  cdm_etl_reference varchar(255),
  source_release_date date NOT NULL,
  cdm_release_date date NOT NULL,
  cdm_version varchar(10),
  cdm_version_concept_id integer NOT NULL,
  vocabulary_version varchar(20) NOT NULL
);

CREATE TABLE concept (
  concept_id integer PRIMARY KEY,
  concept_name varchar(255) NOT NULL,
  domain_id varchar(20) NOT NULL,
  vocabulary_id varchar(20) NOT NULL,
  concept_class_id varchar(20) NOT NULL,
  standard_concept varchar(1),
  concept_code varchar(50) NOT NULL,
  valid_start_date date NOT NULL,
  valid_end_date date NOT NULL,
  invalid_reason varchar(1)
);

CREATE TABLE person (
  person_id integer PRIMARY KEY,
  gender_concept_id integer NOT NULL,
  year_of_birth integer NOT NULL,
  month_of_birth integer,
  day_of_birth integer,
  birth_datetime timestamp,
  race_concept_id integer NOT NULL,
  ethnicity_concept_id integer NOT NULL,
  location_id integer,
  provider_id integer,
  care_site_id integer,
  person_source_value varchar(50),
  gender_source_value varchar(50),
  gender_source_concept_id integer,
  race_source_value varchar(50),
  race_source_concept_id integer,
  ethnicity_source_value varchar(50),
  ethnicity_source_concept_id integer
);

CREATE TABLE visit_occurrence (
  visit_occurrence_id integer PRIMARY KEY,
  person_id integer NOT NULL REFERENCES person,
  visit_concept_id integer NOT NULL,
  visit_start_date date NOT NULL,
  visit_start_datetime timestamp,
  visit_end_date date NOT NULL,
  visit_end_datetime timestamp,
  visit_type_concept_id integer NOT NULL,
  provider_id integer,
  care_site_id integer,
  visit_source_value varchar(50),
  visit_source_concept_id integer,
  admitted_from_concept_id integer,
  admitted_from_source_value varchar(50),
  discharged_to_concept_id integer,
  discharged_to_source_value varchar(50),
  preceding_visit_occurrence_id integer
);
CREATE INDEX idx_visit_person_id_1 ON visit_occurrence (person_id);

CREATE TABLE condition_occurrence (
  condition_occurrence_id integer PRIMARY KEY,
  person_id integer NOT NULL REFERENCES person,
  condition_concept_id integer NOT NULL,
  condition_start_date date NOT NULL,
  condition_start_datetime timestamp,
  condition_end_date date,
  condition_end_datetime timestamp,
  condition_type_concept_id integer NOT NULL,
  condition_status_concept_id integer,
  stop_reason varchar(20),
  provider_id integer,
  visit_occurrence_id integer REFERENCES visit_occurrence,
  visit_detail_id integer,
  condition_source_value varchar(50),
  condition_source_concept_id integer,
  condition_status_source_value varchar(50)
);
CREATE INDEX idx_condition_person_id_1 ON condition_occurrence (person_id);

CREATE TABLE measurement (
  measurement_id integer PRIMARY KEY,
  person_id integer NOT NULL REFERENCES person,
  measurement_concept_id integer NOT NULL,
  measurement_date date NOT NULL,
  measurement_datetime timestamp,
  measurement_time varchar(10),
  measurement_type_concept_id integer NOT NULL,
  operator_concept_id integer,
  value_as_number numeric,
  value_as_concept_id integer,
  unit_concept_id integer,
  range_low numeric,
  range_high numeric,
  provider_id integer,
  visit_occurrence_id integer REFERENCES visit_occurrence,
  visit_detail_id integer,
  measurement_source_value varchar(50),
  measurement_source_concept_id integer,
  unit_source_value varchar(50),
  unit_source_concept_id integer,
  value_source_value varchar(50),
  measurement_event_id integer,
  meas_event_field_concept_id integer
);
CREATE INDEX idx_measurement_person_id_1 ON measurement (person_id);

CREATE TABLE cohort_definition (
  cohort_definition_id integer PRIMARY KEY,
  cohort_definition_name varchar(255) NOT NULL,
  cohort_definition_description text,
  definition_type_concept_id integer NOT NULL,
  cohort_definition_syntax text,
  subject_concept_id integer NOT NULL,
  cohort_initiation_date date
);

CREATE TABLE cohort (
  cohort_definition_id integer NOT NULL REFERENCES cohort_definition,
  subject_id integer NOT NULL,
  cohort_start_date date NOT NULL,
  cohort_end_date date NOT NULL,
  PRIMARY KEY (cohort_definition_id, subject_id, cohort_start_date)
);
